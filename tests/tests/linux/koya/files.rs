//! Files between a host and its containers: volumes, and copies.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::{User, refusal, told};

#[test]
fn volumes_are_the_hosts_files_and_read_only_where_they_are_to_be() {
    let user = User::new();
    let shared = user.home.path("shared");
    fs::create_dir_all(&shared).unwrap();
    fs::write(shared.join("data"), "theirs\n").unwrap();
    fs::write(user.home.path("one.conf"), "single\n").unwrap();
    let path = |name: &str| user.home.path(name).display().to_string();
    let (folder, read_only) = (
        format!("{}:/rw", path("shared")),
        format!("{}:/ro:ro", path("shared")),
    );
    let file = format!(
        "type=bind,source={},target=/etc/one.conf,readonly",
        path("one.conf")
    );
    let script = "cat /rw/data /ro/data /etc/one.conf; echo ours > /rw/new; \
        touch /ro/no 2>/dev/null && echo wrote; echo x 2>/dev/null > /etc/one.conf && echo wrote; cat /named/* || echo first > /named/kept";
    let options = [
        "-v",
        &folder,
        "-v",
        &read_only,
        "--mount",
        &file,
        "-v",
        "data:/named",
    ];
    let (out, errors, _) = told(&user.run(&options, &["sh", "-c", script]));
    assert_eq!(out, "theirs\ntheirs\nsingle\n", "{errors}");
    assert_eq!(fs::read_to_string(shared.join("new")).unwrap(), "ours\n");
    // A named volume outlives the containers that use it.
    let (out, errors, code) = told(&user.run(&["-v", "data:/named"], &["cat", "/named/kept"]));
    assert_eq!((out.as_str(), errors.as_str(), code), ("first\n", "", Some(0)));

    // A container has it even if it does not run; then nobody, and it can go.
    assert_eq!(user.says(&["volume", "ls", "--quiet"]), "data\n");
    let image = user.image();
    user.says(&[
        "create",
        "--name",
        "web",
        "-v",
        "data:/named",
        image.to_str().unwrap(),
        "true",
    ]);
    let line = user.refused(&["volume", "rm", "data"], 1);
    assert!(line.contains("volume data is in use by container web"), "{line}");
    assert!(
        user.says(&["volume", "inspect", "data"])
            .contains("\"Containers\": [\n      \"web\"\n    ]")
    );
    user.says(&["rm", "web"]);
    // What a process of a number that none can have was removing.
    let lost = user.home.path("home/volumes/.gone-4194305-old");
    fs::create_dir(&lost).unwrap();
    assert_eq!(user.says(&["volume", "rm", "data"]), "data\n");
    assert!(!lost.exists());
    assert_eq!(user.says(&["volume", "ls", "--quiet"]), "");

    let missing = format!("{}:/x", path("missing"));
    let line = refusal(&user.run(&["-v", &missing], &["true"]), 125);
    assert!(line.contains("/missing\": no such file or folder"), "{line}");
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn volumes_are_made_before_and_kept_apart_from_paths() {
    let user = User::new();
    for name in ["a", "b"] {
        assert_eq!(user.says(&["volume", "create", name]), format!("{name}\n"));
    }
    // One that is there stays as it is.
    let kept = user.home.path("home/volumes/a/_data/kept");
    fs::write(&kept, "kept\n").unwrap();
    user.says(&["volume", "create", "a"]);
    assert_eq!(
        user.says(&["volume", "ls", "--format", "{{.Name}} {{.Driver}}"]),
        "a local\nb local\n"
    );
    for name in ["../../root", "/etc", ".", "a/b", ""] {
        let line = user.refused(&["volume", "create", name], 125);
        assert!(line.contains("is no name of a volume"), "{line}");
        let line = user.refused(&["volume", "rm", name], 1);
        assert!(line.contains("no such volume"), "{line}");
    }
    assert_eq!(user.says(&["volume", "rm", "a", "b"]), "a\nb\n");
    assert!(!kept.exists() && user.home.path("root").exists());
}

#[test]
fn what_nobody_uses_goes_when_it_is_asked_for() {
    let user = User::new();
    let image = user.image();
    let image = image.to_str().unwrap();
    user.detach("web", &["--network", "none", "-v", "used:/x"], &["sleep", "1000"]);
    let old = user.says(&["create", "--network", "none", image, "true"]);
    user.says(&["volume", "create", "unused"]);
    user.says(&["network", "create", "inner"]);
    // Nobody has agreed.
    let asked = told(&user.done(&["system", "prune", "--volumes"]));
    assert!(
        asked.1.contains("all volumes that no container uses") && asked.0.is_empty(),
        "{asked:?}"
    );
    let networks = || user.says(&["network", "ls", "--quiet"]);
    assert!(networks().contains("inner"));
    let said = user.says(&["system", "prune", "--force", "--all", "--volumes"]);
    for name in [old.trim(), "inner", "unused"] {
        assert!(said.contains(&format!("\n{name}\n")), "{name}: {said}");
    }
    assert!(
        !said.contains("Images") && !networks().contains("inner"),
        "{said}"
    );
    assert_eq!(user.says(&["volume", "ls", "--quiet"]), "used\n");
    user.says(&["rm", "--force", "web"]);
    let said = user.says(&["system", "prune", "--force", "--all", "--volumes"]);
    assert!(
        said.contains("Deleted Images:\nsha256:") && said.contains("\nused\n"),
        "{said}"
    );
    assert_eq!(user.says(&["images", "--quiet"]), "");
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn copies_keep_what_files_are() {
    let user = User::new();
    user.detach("web", &[], &["sleep", "1000"]);
    let tree = user.home.path("tree");
    fs::create_dir_all(tree.join("inner")).unwrap();
    fs::write(tree.join("inner/file"), vec![7; 100_000]).unwrap();
    fs::set_permissions(tree.join("inner/file"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("inner/file", tree.join("link")).unwrap();
    let path = |name: &str| user.home.path(name).display().to_string();
    user.says(&["cp", &path("tree"), "web:/root/"]);
    let seen = user.says(&[
        "exec",
        "web",
        "sh",
        "-c",
        "wc -c < /root/tree/link; ls -l /root/tree/link",
    ]);
    assert!(
        seen.starts_with("100000\n") && seen.contains("link -> inner/file"),
        "{seen}"
    );
    user.says(&["cp", "web:/root/tree", &path("back")]);
    let file = user.home.path("back/inner/file");
    assert_eq!(fs::read(&file).unwrap(), vec![7; 100_000]);
    let (before, after) = (
        fs::metadata(tree.join("inner/file")).unwrap(),
        fs::metadata(&file).unwrap(),
    );
    assert_eq!((before.mode(), before.mtime()), (after.mode(), after.mtime()));
    assert_eq!(
        fs::read_link(user.home.path("back/link")).unwrap().to_str(),
        Some("inner/file")
    );
    let line = user.refused(&["cp", "web:/no/such", &path("x")], 125);
    assert!(line.contains("/no/such"), "{line}");
    user.says(&["rm", "-f", "web"]);
    assert!(user.has_nothing_left(), "something is left behind");
}
