//! `aprgpu chat`: a conversation; each turn computes only what is new.

use crate::args::ChatArgs;
use crate::failure::Failure;
use crate::opened::{self, Opened};
use aprgpu::engine::{Finish, Generator, Request, SequenceId};
use aprgpu::model::ChatTemplate;
use rustyline::error::ReadlineError;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;

const HELP: &str = "/reset forgets the conversation, /system TEXT sets the system message, /quit ends; Ctrl-C stops an answer";

struct Conversation {
    opened: Opened,
    template: ChatTemplate,
    sequence: SequenceId,
    messages: Vec<Value>,
}

pub(crate) fn chat(args: &ChatArgs) -> Result<(), Failure> {
    let mut opened = opened::open(&args.model, &args.device, 1)?;
    let template = opened::chat_template(&opened.model.source, &opened.tokenizer)?;
    let no_slot = || Failure::Usage("no sequence could be opened".to_owned());
    let sequence = opened.scheduler.open().ok_or_else(no_slot)?;
    let mut conversation = Conversation { opened, template, sequence, messages: Vec::new() };
    conversation.set_system(args.system.as_deref());
    opened::catch_interrupts()?;
    if std::io::stdin().is_terminal() {
        eprintln!("{HELP}");
    }
    let mut editor = rustyline::DefaultEditor::new().map_err(reading)?;
    loop {
        match editor.readline("> ") {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => {
                // A history that is full or off is no reason to stop.
                let _ = editor.add_history_entry(&line);
                if !conversation.take(args, line.trim())? {
                    break;
                }
            }
            Err(ReadlineError::Interrupted) => eprintln!("(/quit or Ctrl-D ends)"),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(reading(error)),
        }
    }
    opened::report_work(&args.device, &mut conversation.opened.scheduler)
}

fn reading(error: ReadlineError) -> Failure {
    Failure::Stdio(match error {
        ReadlineError::Io(error) => error,
        other => std::io::Error::other(other),
    })
}

impl Conversation {
    fn set_system(&mut self, text: Option<&str>) {
        self.messages = text.map(|text| json!({"role": "system", "content": text})).into_iter().collect();
    }

    /// Handles a line; false ends the conversation.
    fn take(&mut self, args: &ChatArgs, line: &str) -> Result<bool, Failure> {
        match line.split_once(char::is_whitespace).unwrap_or((line, "")) {
            ("/quit" | "/exit", _) => return Ok(false),
            ("/reset", _) => {
                self.messages.retain(|message| message["role"] == "system");
                eprintln!("forgotten");
            }
            ("/system", "") => self.set_system(None),
            ("/system", text) => self.set_system(Some(text.trim())),
            (command, _) if command.starts_with('/') => eprintln!("unknown command {command}; {HELP}"),
            _ => self.answer(args, line)?,
        }
        Ok(true)
    }

    fn answer(&mut self, args: &ChatArgs, question: &str) -> Result<(), Failure> {
        self.messages.push(json!({"role": "user", "content": question}));
        let text = self.template.render(&self.messages, true, &serde_json::Map::new())?;
        let tokens = self.opened.tokenizer.encode(&text, false, true);
        let Opened { scheduler, tokenizer, .. } = &mut self.opened;
        if tokens.len() >= scheduler.device().context() {
            let context = scheduler.device().context();
            let count = tokens.len();
            eprintln!(
                "the conversation has {count} tokens and the context {context}: /reset it or raise --ctx"
            );
            self.messages.pop();
            return Ok(());
        }
        opened::clear_interrupt();
        let before = scheduler.stats();
        let request = Request {
            tokens,
            max_tokens: args.n,
            sampling: args.sampling.sampling(0),
            stop: Vec::new(),
            ignore_end: false,
            continues_text: false,
        };
        let mut out = std::io::stdout().lock();
        let mut on_text = |text: &str| match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) if !opened::interrupted() => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        };
        let generated =
            Generator::new(scheduler, tokenizer).continue_sequence(self.sequence, request, &mut on_text)?;
        writeln!(out)?;
        if generated.finish == Finish::ContextFull {
            eprintln!("note: the context is full; /reset the conversation or raise --ctx");
        }
        opened::clear_interrupt();
        let after = scheduler.stats();
        let turn = aprgpu::engine::Stats {
            prefill_tokens: after.prefill_tokens - before.prefill_tokens,
            prefill_time: after.prefill_time - before.prefill_time,
            decode_tokens: after.decode_tokens - before.decode_tokens,
            decode_time: after.decode_time - before.decode_time,
            decode_rounds: after.decode_rounds - before.decode_rounds,
            decode_work: after.decode_work.since(before.decode_work),
        };
        eprintln!("{}", opened::timing(&turn));
        self.messages.push(json!({"role": "assistant", "content": generated.text}));
        Ok(())
    }
}
