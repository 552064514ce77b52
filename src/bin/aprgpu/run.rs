//! `aprgpu run`: continue one prompt, or many.

use crate::args::RunArgs;
use crate::failure::{Failure, read_text};
use crate::opened::{self, Opened};
use aprgpu::engine::{Finish, Generated, Generator, Request};
use serde::Deserialize;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;

/// One line of a --prompts file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PromptLine {
    prompt: String,
    n: Option<usize>,
    seed: Option<u64>,
    temperature: Option<f32>,
    /// Where the line stands, for messages; `None` for a prompt that stands in no such file.
    #[serde(skip)]
    place: Option<String>,
}

pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let lines = prompts(args)?;
    let mut opened =
        opened::open(&args.model, &args.device, usize::from(args.parallel).min(lines.len().max(1)))?;
    let requests = lines
        .iter()
        .enumerate()
        .map(|(index, line)| request(args, &opened, line, index))
        .collect::<Result<Vec<_>, _>>()?;
    opened::catch_interrupts()?;
    if args.prompts.is_some() {
        return run_many(args, &mut opened, requests, &lines);
    }

    let mut out = std::io::stdout().lock();
    let stream = !args.json;
    if stream && !args.chat && out.is_terminal() {
        write!(out, "\x1b[2m{}\x1b[0m", lines[0].prompt)?;
        out.flush()?;
    }
    let prompt_tokens = requests[0].tokens.len();
    let mut write_error = None;
    let mut on_text = |_: usize, text: &str| {
        if stream && let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            write_error = Some(error);
            return ControlFlow::Break(());
        }
        if opened::interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let generated = Generator::new(&mut opened.scheduler, &opened.tokenizer).run(requests, &mut on_text)?;
    if let Some(error) = write_error {
        return Err(error.into());
    }
    let stats = opened.scheduler.stats();
    for one in &generated {
        if args.json {
            let mut report = report(&lines[0], prompt_tokens, one);
            report["backend"] = json!(opened.backend);
            report["timing"] = opened::timing_json(&stats);
            writeln!(out, "{report}")?;
        } else {
            writeln!(out)?;
            say_why(one, &opened);
        }
    }
    eprintln!("{}", opened::timing(&stats));
    opened::report_work(&args.device, &mut opened.scheduler)
}

fn run_many(
    args: &RunArgs,
    opened: &mut Opened,
    requests: Vec<Request>,
    lines: &[PromptLine],
) -> Result<(), Failure> {
    let counts: Vec<usize> = requests.iter().map(|request| request.tokens.len()).collect();
    let mut on_text = |_: usize, _: &str| {
        if opened::interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let generated = Generator::new(&mut opened.scheduler, &opened.tokenizer).run(requests, &mut on_text)?;
    let mut out = std::io::stdout().lock();
    for (index, ((line, count), one)) in lines.iter().zip(counts).zip(&generated).enumerate() {
        let mut report = report(line, count, one);
        report["index"] = json!(index);
        writeln!(out, "{report}")?;
    }
    let stats = opened.scheduler.stats();
    let rounds = stats.decode_rounds;
    eprintln!("{} | {rounds} rounds of up to {} sequences", opened::timing(&stats), args.parallel);
    opened::report_work(&args.device, &mut opened.scheduler)
}

fn report(line: &PromptLine, prompt_tokens: usize, one: &Generated) -> serde_json::Value {
    json!({
        "prompt": line.prompt,
        "prompt_tokens": prompt_tokens,
        "text": one.text,
        "tokens": one.tokens,
        "finish": one.finish,
    })
}

fn say_why(one: &Generated, opened: &Opened) {
    match one.finish {
        Finish::ContextFull => {
            let context = opened.scheduler.device().context();
            eprintln!("note: stopped, the context of {context} positions is full; --ctx makes it longer");
        }
        Finish::Interrupted => eprintln!("note: interrupted"),
        _ => {}
    }
}

fn prompts(args: &RunArgs) -> Result<Vec<PromptLine>, Failure> {
    if let Some(path) = &args.prompts {
        let text = read_text(path)?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        return lines
            .map(|(number, line)| prompt_line(format!("{}: line {}", path.display(), number + 1), line))
            .collect();
    }
    let prompt = match (&args.prompt, &args.file) {
        (Some(prompt), _) => prompt.clone(),
        (None, Some(file)) => read_text(file)?,
        (None, None) => {
            if std::io::stdin().is_terminal() {
                eprintln!("reading the prompt from stdin; end it with Ctrl-D");
            }
            read_text("-".as_ref())?
        }
    };
    Ok(vec![PromptLine { prompt, n: None, seed: None, temperature: None, place: None }])
}

fn prompt_line(place: String, text: &str) -> Result<PromptLine, Failure> {
    let line: PromptLine =
        serde_json::from_str(text).map_err(|error| Failure::Usage(format!("{place}: {error}")))?;
    if let Some(found) = line.temperature.filter(|t| !(t.is_finite() && *t >= 0.0)) {
        let what = format!("{place}: temperature: expected a number of at least 0, found {found}");
        return Err(Failure::Usage(what));
    }
    Ok(PromptLine { place: Some(place), ..line })
}

fn request(args: &RunArgs, opened: &Opened, line: &PromptLine, index: usize) -> Result<Request, Failure> {
    let tokens = if args.chat {
        let system = args.system.iter().map(|text| json!({"role": "system", "content": text}));
        let messages: Vec<_> = system.chain([json!({"role": "user", "content": line.prompt})]).collect();
        let template = opened::chat_template(&opened.model.source, &opened.tokenizer)?;
        let text = template.render(&messages, true, &serde_json::Map::new())?;
        // The template itself writes the tokens that begin a text.
        opened.tokenizer.encode(&text, false, true)
    } else {
        opened.tokenizer.encode(&line.prompt, true, true)
    };
    // Asked before anything runs: a prompt that cannot run must not cost the answers of those before it.
    opened.scheduler.device().check_tokens(&tokens).map_err(|source| match &line.place {
        Some(place) => Failure::Prompt { place: place.clone(), source },
        None => source.into(),
    })?;
    // Lines without a seed share one, and differ by where they stand. One with a seed of its own gives the text that it
    // gives alone.
    let mut sampling = args.sampling.sampling(if line.seed.is_some() { 0 } else { index as u32 });
    sampling.seed = line.seed.unwrap_or(sampling.seed);
    sampling.temperature = line.temperature.unwrap_or(sampling.temperature);
    Ok(Request {
        tokens,
        max_tokens: line.n.unwrap_or(args.n),
        sampling,
        stop: args.stop.clone(),
        ignore_end: args.ignore_end,
        continues_text: !args.chat,
    })
}
