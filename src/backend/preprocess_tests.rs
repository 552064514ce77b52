//! Tests of the preprocessor that the build script and the CUDA backend use.

use super::preprocess::{Composed, Defines, compose, expand, key};

fn composed(text: &'static str, defines: &[(&str, &str)]) -> Result<Composed, String> {
    let read = |file: &str| match file {
        "main" => Ok(text.to_owned()),
        "part" => Ok("fn ${T}f() {}\n#define D ${T}\n".to_owned()),
        "loop" => Ok("#include \"loop\"\n".to_owned()),
        _ => Err(format!("{file} is missing")),
    };
    let defines: Defines = defines.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    compose("shaders", "main", &defines, &read)
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
fn loops_expressions_and_definitions() {
    let text = "#define N 2\n#for i in 0..N*2\n#if i%2==1\n${i} ${(i+1)*4}\n#endif\n#endfor\n";
    let found = composed(text, &[]).unwrap();
    assert_eq!(found.text, "1 8\n3 16\n");
    assert_eq!(found.origin(2), "shaders/main:4");
    // Arguments end with their include, definitions do not.
    assert_eq!(composed("#include \"part\" T=x\n${D}\n", &[]).unwrap().text, "fn xf() {}\nx\n");
    assert!(composed("#include \"part\" T=x\n${T}\n", &[]).is_err());
    // A number of its own for each turn.
    assert_eq!(composed("#for i in 0..2\n${U}\n#endfor\n", &[]).unwrap().text, "1\n2\n");
}

#[test]
fn mistakes_name_their_line() {
    for (text, expected) in [
        ("a\n${NAME}\n", "shaders/main:2: NAME is not defined"),
        ("a\n#ifdef X\n", "shaders/main:2: #ifdef without #endif"),
        ("#endif\n", "shaders/main:1: #endif without"),
        ("#for i in 0..2\n#endif\n", "shaders/main:2: #endif does not match"),
        ("#for i in 0..x\n#endfor\n", "shaders/main:1: `x` is no expression"),
        ("#for i\n#endfor\n", "shaders/main:1: expected `#for"),
        ("${1+}\n", "shaders/main:1: `1+` is no expression"),
        ("\n#defin X\n", "shaders/main:2: unknown directive #defin"),
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
