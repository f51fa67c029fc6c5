//! Tests that need root: other users, networks that do not answer, full disks, and special files.

use std::{os::unix::fs::chown, thread, time::Instant};

use riklet_testkit::namespace::{ip, isolated, run};
use rustix::{
    fs::{CWD, FileType, Gid, Mode, makedev, mknodat},
    thread::{UnshareFlags, set_thread_groups, unshare_unsafe},
};

use super::{
    local::{obtain, text},
    *,
};

#[test]
#[expect(clippy::disallowed_methods, reason = "the kernel gives up as well, after two minutes")]
fn unanswered_connection_times_out() {
    isolated(|| {
        // Nobody has the address, and the static neighbour entry keeps the kernel from finding that out.
        ip("link add near0 type veth peer name far0");
        ip("link set far0 up");
        ip("link set near0 up");
        ip("address add 192.0.2.1/24 dev near0");
        ip("neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev near0 nud permanent");
        let node = NodeWithImages::with(|settings| settings.connect = Duration::from_millis(100));
        let expected = "cannot download the kernel http://192.0.2.2/k: no connection within 100ms";
        let began = Instant::now();
        assert_eq!(words(node.obtain("http://192.0.2.2/k")), expected);
        assert!(began.elapsed() < Duration::from_mins(1));
    });
}

#[test]
fn unreachable_server_is_reported() {
    isolated(|| {
        let node = NodeWithImages::new();
        let expected = "cannot download the kernel http://127.0.0.1:9/k: its server cannot be \
                        reached: Connection refused (os error 111)";
        assert_eq!(words(node.obtain("http://127.0.0.1:9/k")), expected);
        let unknown = words(node.obtain("http://nobody.invalid/k"));
        assert!(unknown.contains("its server cannot be reached: "), "{unknown}");
        assert_eq!(node.files(), set(&[]));
    });
}

/// A file system for a node's state directory, in a mount namespace of the test's own.
struct Disk(String);

impl Disk {
    #[expect(unsafe_code, reason = "unshare(2) has no safe wrapper")]
    fn new(node: &NodeWithImages, size: &str) -> Self {
        // SAFETY: no descriptor or memory is shared any less than before.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        run("mount", "--make-rprivate /");
        DirBuilder::new().create(node.state_dir()).unwrap();
        let dir = node.state_dir().display().to_string();
        run("mount", &format!("-t tmpfs -o size={size} tmpfs {dir}"));
        Self(dir)
    }

    fn resize(&self, size: &str) {
        run("mount", &format!("-o remount,size={size} {}", self.0));
    }
}

impl Drop for Disk {
    /// Unmounts it before the directory that it is mounted on is removed.
    fn drop(&mut self) {
        run("umount", &self.0);
    }
}

#[test]
fn full_disk_is_reported_before_the_download() {
    isolated(|| {
        let node = NodeWithImages::new();
        let disk = Disk::new(&node, "1m");
        let body = bytes(2_000_000);
        let server = Server::start([serve(&body, TAG), serve(&body, TAG)]);
        let url = server.url();
        let mut received = 0;
        let full = node.images().obtain(&kernel(&url), &mut |step| received = step.received);
        let expected = format!("no room for the kernel {url} in {}/images: ", disk.0);
        assert_eq!(words(full), expected + "No space left on device (os error 28)");
        assert_eq!(received, 0);
        assert_eq!(node.files(), set(&[]));
        disk.resize("4m");
        assert_eq!(read(&node.obtain(&url).unwrap()), body);
        server.end();
    });
}

#[test]
fn disk_filling_up_is_reported_and_keeps_the_partial_file() {
    isolated(|| {
        let node = NodeWithImages::new();
        let disk = Disk::new(&node, "1m");
        let body = bytes(2_000_000);
        // No length is stated, so space cannot be reserved.
        let chunk = [b"1e8480\r\n", body.as_slice(), b"\r\n0\r\n\r\n"].concat();
        let head = "200 OK; Transfer-Encoding: chunked; ETag: \"one\"";
        let server = Server::start([send(head, &chunk), serve(&body, TAG)]);
        let url = server.url();
        let full = words(node.obtain(&url));
        assert!(full.starts_with(&format!("no room for the kernel {url} in {}/images: ", disk.0)));
        assert_eq!(node.files(), set(&["part", "json"]));
        disk.resize("4m");
        let sha256 = Digest::of(&body).0;
        assert_eq!(read(&node.obtain_checked(&url, sha256).unwrap()), body);
        let requests = server.end();
        let (range, tag) = requests[1].range().unwrap();
        assert_eq!(tag, TAG);
        let first = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap();
        assert!(first.parse::<usize>().unwrap() > 500_000, "{first}");
    });
}

#[test]
fn download_leaves_room_to_others() {
    isolated(|| {
        let body = bytes(2_000_000);
        let node = NodeWithImages::with(|settings| settings.spare = 3 << 20);
        let disk = Disk::new(&node, "4m");
        let server = Server::start([serve(&body, TAG), serve(&body, TAG)]);
        let url = server.url();
        // There is room for the file, but not beside what others need.
        let full = words(node.obtain(&url));
        let expected = format!("no room for the kernel {url} in {}/images: ", disk.0);
        assert!(full.starts_with(&expected), "{full}");
        disk.resize("8m");
        assert_eq!(read(&node.obtain(&url).unwrap()), body);
        server.end();
    });
}

#[test]
fn directories_and_special_files_are_refused() {
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
        // No driver has this number (Documentation/admin-guide/devices.txt).
        mknodat(CWD, &path, sort, Mode::RUSR, makedev(259, 1_000_000)).unwrap();
        let expected = format!("the kernel {} is {found}, not a file", text(&path));
        assert_eq!(words(obtain(&kernel(text(&path)))), expected);
    }
    // A block device may be a rootfs; this one has no driver.
    let path = dir.0.join("a block device");
    let wanted = Wanted { role: Role::Rootfs, ..kernel(text(&path)) };
    let expected = format!("this process cannot read the rootfs {}: ", text(&path));
    let words = words(obtain(&wanted));
    assert!(words.starts_with(&expected), "{words}");
}

#[test]
fn access_is_checked_as_the_vmms_user() {
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
    // The VMM's group decides, and not the groups of this process.
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
    // This process keeps its own access.
    assert_eq!(obtain(&Wanted { user: None, ..wanted }).unwrap(), path);
}

#[test]
fn downloaded_image_is_readable_by_a_group_alone() {
    const GROUP: u32 = 4242;
    isolated(|| {
        // As an earlier version left it, and then as it is shared.
        let everybody = NodeWithImages::new();
        let server = Server::start([serve(b"file", TAG)]);
        let url = server.url();
        let path = everybody.obtain(&url).unwrap();
        assert_eq!(mode(&path), 0o644);
        let settings = Settings { group: Some(GROUP), ..everybody.settings.clone() };
        let images = Images::new(&everybody.state_dir(), settings);
        let of_group = Wanted { user: Some(NOBODY), groups: &[GROUP], ..kernel(&url) };
        assert_eq!(images.obtain(&of_group, &mut |_| {}).unwrap(), path);
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o640, 0o755));
        let others = words(images.obtain(&Wanted { groups: &[], ..of_group }, &mut |_| {}));
        assert!(others.ends_with(": Permission denied (os error 13)"), "{others}");
        server.end();
    });
}

#[test]
fn downloaded_image_is_readable_by_the_vmms_user() {
    isolated(|| {
        let node = NodeWithImages::new();
        let server = Server::start([serve(b"file", TAG)]);
        let url = server.url();
        let path = node.obtain(&url).unwrap();
        assert_eq!(mode(&node.state_dir()), 0o700);
        let wanted = Wanted { user: Some(NOBODY), ..kernel(&url) };
        assert_eq!(node.images().obtain(&wanted, &mut |_| {}).unwrap(), path);
        // The user can search the directory, and not list it.
        assert_eq!(mode(&node.state_dir()), 0o711);
        set_mode(&node.dir.0, 0o700);
        let refused = words(node.images().obtain(&wanted, &mut |_| {}));
        let expected =
            format!("user 65534 of group 65534 cannot read the kernel {}", path.display());
        assert_eq!(refused, format!("{expected}: Permission denied (os error 13)"));
        server.end();
    });
}
