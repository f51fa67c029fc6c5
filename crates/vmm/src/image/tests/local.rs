//! Files that are there, or are not.

use std::{os::unix::fs::chown, thread};

use rustix::{
    fs::{CWD, FileType, Gid, Mode, makedev, mknodat},
    thread::set_thread_groups,
};

use super::*;
use riklet_kernel::process::Credentials;

/// Obtains without a network: none is needed.
fn obtain(wanted: &Wanted<'_>) -> Result<PathBuf, ImageError> {
    let nowhere = Images::new(Path::new("/nonexistent"), Settings::default());
    nowhere.obtain(wanted, &mut |_| panic!("a file has no progress"))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_file_is_its_path() {
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
fn a_source_that_is_none_is_told() {
    let refused = obtain(&kernel("ftp://h/vmlinux"));
    assert!(refused.as_ref().is_err_and(|error| error.hint().is_some()));
    assert_eq!(words(refused), "cannot use the kernel: ftp:// is not supported");
}

#[test]
fn what_is_not_there_is_told() {
    let dir = Dir::new();
    let path = dir.0.join("initrd");
    let wanted = Wanted { role: Role::Initrd, ..kernel(text(&path)) };
    let expected =
        format!("cannot find the initrd {}: No such file or directory (os error 2)", text(&path));
    assert_eq!(words(obtain(&wanted)), expected);
}

#[test]
fn what_is_no_file_is_told() {
    let dir = Dir::new();
    let of = |role| {
        let wanted = Wanted { role, ..kernel(text(&dir.0)) };
        words(obtain(&wanted))
    };
    for role in [Role::Kernel, Role::Initrd, Role::Rootfs] {
        assert_eq!(of(role), format!("the {role} {} is a directory, not a file", text(&dir.0)));
    }
    for (sort, found) in [
        (FileType::Fifo, "a FIFO"),
        (FileType::Socket, "a socket"),
        (FileType::CharacterDevice, "a character device"),
        (FileType::BlockDevice, "a block device"),
    ] {
        let path = dir.0.join(found);
        // A number that no driver has (Documentation/admin-guide/devices.txt).
        mknodat(CWD, &path, sort, Mode::RUSR, makedev(259, 1_000_000)).unwrap();
        let expected = format!("the kernel {} is {found}, not a file", text(&path));
        assert_eq!(words(obtain(&kernel(text(&path)))), expected);
    }
    // A disk is a rootfs; this one has no driver.
    let path = dir.0.join("a block device");
    let wanted = Wanted { role: Role::Rootfs, ..kernel(text(&path)) };
    let expected = format!("this process cannot read the rootfs {}: ", text(&path));
    let words = words(obtain(&wanted));
    assert!(words.starts_with(&expected), "{words}");
}

#[test]
fn the_vmms_user_decides() {
    let dir = Dir::new();
    let path = dir.file("rootfs", b"disk");
    let wanted = Wanted { role: Role::Rootfs, user: Some(NOBODY), ..kernel(text(&path)) };
    let to_write = Wanted { access: Access::Write, ..wanted };
    let denied = |access| {
        let who = "user 65534 of group 65534";
        let denied = "Permission denied (os error 13)";
        format!("{who} cannot {access} the rootfs {}: {denied}", text(&path))
    };
    assert_eq!(obtain(&wanted).unwrap(), path);
    assert_eq!(words(obtain(&to_write)), denied("write"));
    set_mode(&path, 0o666);
    assert_eq!(obtain(&to_write).unwrap(), path);
    set_mode(&path, 0o600);
    assert_eq!(words(obtain(&wanted)), denied("read"));
    // The group counts, and this process's groups do not.
    let group = Gid::from_raw(4242);
    set_mode(&path, 0o640);
    chown(&path, None, Some(NOBODY.gid)).unwrap();
    assert_eq!(obtain(&wanted).unwrap(), path);
    chown(&path, None, Some(group.as_raw())).unwrap();
    let in_group = thread::scope(|scope| {
        let obtain = || {
            set_thread_groups(&[group]).unwrap();
            obtain(&wanted)
        };
        scope.spawn(obtain).join().unwrap()
    });
    assert_eq!(words(in_group), denied("read"));
    set_mode(&path, 0o644);
    set_mode(&dir.0, 0o700);
    let refused = obtain(&wanted);
    let hint = refused.as_ref().unwrap_err().hint().unwrap();
    assert!(hint.contains(&format!("namei -l {}", text(&path))), "{hint}");
    assert_eq!(words(refused), denied("read"));
    // This process may still do what it may.
    assert_eq!(obtain(&Wanted { user: None, ..wanted }).unwrap(), path);
}

#[test]
fn a_user_that_cannot_be_is_told() {
    let dir = Dir::new();
    let path = dir.file("kernel", b"kernel");
    // setresuid(2) would leave root as it is.
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
