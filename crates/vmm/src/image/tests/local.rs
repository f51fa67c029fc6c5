//! Local files, present and missing.

use super::*;
use riklet_kernel::process::Credentials;

/// Obtains an image without downloading.
pub(super) fn obtain(wanted: &Wanted<'_>) -> Result<PathBuf, ImageError> {
    let nowhere = Images::new(Path::new("/nonexistent"), Settings::default());
    nowhere.obtain(wanted, &mut |_| panic!("a file has no progress"))
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn local_file_is_used_in_place() {
    let dir = Dir::new();
    let path = dir.file("a b", b"kernel");
    assert_eq!(obtain(&kernel(text(&path))).unwrap(), path);
    let url = format!("file://{}", text(&path).replace(' ', "%20"));
    assert_eq!(obtain(&kernel(&url)).unwrap(), path);
}

#[test]
fn a_relative_path_is_relative_to_the_current_directory() {
    let found = obtain(&kernel("Cargo.toml")).unwrap();
    assert_eq!(found, std::env::current_dir().unwrap().join("Cargo.toml"));
}

#[test]
fn invalid_source_is_reported() {
    let refused = obtain(&kernel("ftp://h/vmlinux"));
    assert!(refused.as_ref().is_err_and(|error| error.hint().is_some()));
    assert_eq!(words(refused), "cannot use the kernel: ftp:// is not supported");
}

#[test]
fn missing_file_is_reported() {
    let dir = Dir::new();
    let path = dir.0.join("initrd");
    let wanted = Wanted { role: Role::Initrd, ..kernel(text(&path)) };
    let expected =
        format!("cannot find the initrd {}: No such file or directory (os error 2)", text(&path));
    assert_eq!(words(obtain(&wanted)), expected);
}

#[test]
fn impossible_user_is_reported() {
    let dir = Dir::new();
    let path = dir.file("kernel", b"kernel");
    // setresuid(2) takes this value for "unchanged", and would leave the thread root.
    let user = Credentials { uid: u32::MAX, gid: 0 };
    let refused = obtain(&Wanted { user: Some(user), ..kernel(text(&path)) });
    let expected = format!(
        "cannot try to read the kernel {} as user 4294967295 of group 0: Invalid argument \
         (os error 22)",
        text(&path)
    );
    assert_eq!(words(refused), expected);
}

#[test]
fn the_checksum_of_a_file_is_checked() {
    let dir = Dir::new();
    let path = dir.file("kernel", b"kernel");
    let with = |sha256: Digest| obtain(&Wanted { sha256: Some(sha256.0), ..kernel(text(&path)) });
    let right = Digest::of(b"kernel");
    assert_eq!(with(right).unwrap(), path);
    let wrong = Digest::of(b"another");
    let expected = format!("the kernel {} has the SHA-256 {right}, not {wrong}", text(&path));
    assert_eq!(words(with(wrong)), expected);
}

#[test]
fn files_outside_of_the_roots_are_refused() {
    let node = NodeWithImages::with(|settings| settings.roots = Some(vec![]));
    let images = |roots: &[&Path]| {
        let roots = Some(roots.iter().map(|root| (*root).to_owned()).collect());
        Images::new(&node.state_dir(), Settings { roots, ..node.settings.clone() })
    };
    let (inside, outside) = (Dir::new(), Dir::new());
    let kernel_file = inside.file("vmlinux", b"kernel");
    let secret = outside.file("secret", b"secret");
    let link = inside.0.join("link");
    std::os::unix::fs::symlink(&secret, &link).unwrap();
    let missing = outside.0.join("missing");
    let beside = outside.0.with_extension("more");
    let up = inside.0.join("..").join(outside.0.file_name().unwrap()).join("secret");
    let obtain = |path: &Path, roots: &[&Path]| {
        images(roots).obtain(&kernel(path.to_str().unwrap()), &mut |_| {})
    };
    assert_eq!(obtain(&kernel_file, &[&outside.0, &inside.0]).unwrap(), kernel_file);
    // A link inside may lead to a file inside; the VMM gets the file.
    std::os::unix::fs::symlink("vmlinux", inside.0.join("current")).unwrap();
    assert_eq!(obtain(&inside.0.join("current"), &[&inside.0]).unwrap(), kernel_file);
    for path in
        [&secret, &link, &missing, &beside, &up, Path::new("/etc/shadow"), Path::new("/etc/none")]
    {
        let error = obtain(path, &[&inside.0]).unwrap_err();
        assert!(error.is_of_the_definition() && error.hint().unwrap().contains("image_roots"));
        let expected =
            format!("the kernel {} is outside of {}", path.display(), inside.0.display());
        assert_eq!(error.to_string(), expected, "{}", path.display());
    }
    // Each directory is named once.
    let error = obtain(&secret, &[&inside.0, &beside, &inside.0]).unwrap_err().to_string();
    let named = format!("{}, {}", inside.0.display(), beside.display());
    assert!(error.ends_with(&format!(" is outside of {named}")), "{error}");
    // What is missing inside is said to be missing.
    let unfound = words(obtain(&inside.0.join("none"), &[&inside.0]));
    assert!(unfound.starts_with("cannot find the kernel "), "{unfound}");
}
