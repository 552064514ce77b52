//! Files appear whole or not at all.

use aprgpu::format::Error;
use aprgpu::format::write::AtomicFile;
use std::io::Write;

#[test]
fn a_file_appears_when_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.bin");
    let mut file = AtomicFile::create(&target, &[]).unwrap();
    file.write_all(b"new").unwrap();
    assert!(!target.exists());
    file.commit().unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), b"new");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn an_interrupted_run_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.bin");
    std::fs::write(&target, b"old").unwrap();
    let mut file = AtomicFile::create(&target, &[]).unwrap();
    file.write_all(b"new").unwrap();
    drop(file);
    let mut file = AtomicFile::create(&target, &[]).unwrap();
    file.write_all(b"bad").unwrap();
    let seen = std::cell::Cell::new(false);
    let result = file.commit_if(|path| {
        // What is checked is complete.
        seen.set(std::fs::read(path).unwrap() == b"bad");
        Err(Error::Missing { path: path.to_owned() })
    });
    assert!(result.is_err() && seen.get());
    assert_eq!(std::fs::read(&target).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn the_input_is_not_overwritten_under_any_name() {
    let folder = tempfile::tempdir().unwrap();
    let [input, symbolic, hard] = ["in", "symbolic", "hard"].map(|name| folder.path().join(name));
    std::fs::write(&input, b"input").unwrap();
    std::os::unix::fs::symlink(&input, &symbolic).unwrap();
    std::fs::hard_link(&input, &hard).unwrap();
    for target in [&input, &symbolic, &hard, &folder.path().join("./in")] {
        let error = AtomicFile::create(target, &[&input]).unwrap_err().to_string();
        assert!(error.contains("the input itself") && error.contains(target.to_str().unwrap()), "{error}");
    }
    AtomicFile::create(&folder.path().join("other"), &[&input]).unwrap();
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_permissions_kept() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real"), folder.path().join("link"));
    std::fs::write(&real, b"old").unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let mut file = AtomicFile::create(&link, &[]).unwrap();
    file.write_all(b"new").unwrap();
    file.commit().unwrap();
    assert!(link.is_symlink());
    assert_eq!(std::fs::read(&real).unwrap(), b"new");
    assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    // A new file is as readable as any other new file.
    let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
    AtomicFile::create(&ours, &[]).unwrap().commit().unwrap();
    std::fs::write(&plain, b"").unwrap();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&ours), mode(&plain));
}

#[test]
fn folders_and_missing_folders_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    assert!(AtomicFile::create(folder.path(), &[]).unwrap_err().to_string().contains("regular file"));
    let error = AtomicFile::create(&folder.path().join("no/such/out"), &[]).unwrap_err().to_string();
    assert!(error.contains("no/such/out"), "{error}");
}
