//! Tests of the preprocessor that the build script uses (it is no part of the library).
#![cfg(test)]

#[path = "preprocess.rs"]
mod preprocess;

use preprocess::{Composed, Defines, compose, expand, key};

fn composed(text: &'static str, defines: &[(&str, &str)]) -> Result<Composed, String> {
    let read = |file: &str| match file {
        "main" => Ok(text.to_owned()),
        "part" => Ok("fn ${T}f() {}\n".to_owned()),
        "loop" => Ok("#include \"loop\"\n".to_owned()),
        _ => Err(format!("{file} is missing")),
    };
    let defines: Defines = defines.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    compose("main", &defines, &read)
}

#[test]
fn includes_conditions_and_substitutions() {
    let text = "#ifdef A=x\n#include \"part\" T=${A}_\n#else\nelse\n#endif\n#ifndef B\nlast ${A}\n#endif\n";
    let found = composed(text, &[("A", "x")]).unwrap();
    assert_eq!(found.text, "fn x_f() {}\nlast x\n");
    assert_eq!((found.origin(1), found.origin(2)), ("shaders/part:1".into(), "shaders/main:7".into()));
    assert_eq!(composed(text, &[("A", "y"), ("B", "")]).unwrap().text, "else\n");
}

#[test]
fn mistakes_name_their_line() {
    for (text, expected) in [
        ("a\n${NAME}\n", "shaders/main:2: NAME is not defined"),
        ("#ifdef X\n", "1 #ifdef without #endif"),
        ("#endif\n", "shaders/main:1: #endif without"),
        ("\n#define X\n", "shaders/main:2: unknown directive #define"),
        ("#include \"nothing\"\n", "nothing is missing\n  included at shaders/main:1"),
        ("#include \"loop\"\n", "deep"),
    ] {
        let error = composed(text, &[]).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn variants_multiply_out() {
    let variants = expand("down up: A={q,r} T={-,1}").unwrap();
    let keys: Vec<String> = variants.iter().map(|(op, defines)| key(op, defines)).collect();
    let of = |op: &str| ["A=q", "A=q T=1", "A=r", "A=r T=1"].map(|defines| format!("{op} {defines}"));
    assert_eq!(keys, [of("down"), of("up")].concat());
    assert_eq!(expand("sample:").unwrap().len(), 1);
    assert!(expand("no colon").is_err());
}
