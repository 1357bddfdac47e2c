//! Users by name, as the container's own /etc/passwd and /etc/group have them.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use super::{Failure, Kind};

/// 10,000 users; the files are the container's.
const LONGEST_FILE: u64 = 1 << 20;
/// What setgroups(2) takes.
const MAX_GROUPS: usize = 65_536;

/// A user with its groups.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub uid: u32,
    /// Its own group, or the one that was asked for.
    pub gid: u32,
    /// The other groups that it is a member of; none if a group was asked for.
    pub groups: Vec<u32>,
}

/// Finds "user[:group]", names or numbers. A number needs no entry.
pub fn find(text: &str) -> Result<User, Failure> {
    look_up(text, &read("/etc/passwd"), &read("/etc/group"))
}

/// The home folder of a user.
pub fn home_of(uid: u32) -> Option<String> {
    let text = read("/etc/passwd");
    let uid = uid.to_string();
    let mut entries = text.lines().map(fields);
    let home = entries.find(|entry| entry.get(2) == Some(&uid.as_str()))?;
    home.get(5)
        .filter(|home| home.starts_with('/'))
        .map(|home| (*home).to_owned())
}

/// A file's beginning; nothing of what is no file, which could make us wait.
fn read(path: &str) -> String {
    let mut bytes = Vec::new();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    if let Ok(file) = file
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
    {
        // What cannot be read says nothing about users.
        let _ = file.take(LONGEST_FILE).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

fn look_up(text: &str, passwd: &str, group: &str) -> Result<User, Failure> {
    let (user, wanted_group) = text
        .split_once(':')
        .map_or((text, None), |(user, group)| (user, Some(group)));
    let missing = |what: &str, name: &str| {
        Failure::new(
            Kind::Invalid,
            format!(
                "no {what} '{name}' in the container; want a name of its /etc/passwd or /etc/group, or a number"
            ),
        )
    };
    let entry = |file: &str, name: &str| -> Option<(String, u32, Option<u32>)> {
        let parsed = |line: &str| {
            let fields = fields(line);
            let id: u32 = fields.get(2)?.parse().ok()?;
            let gid = fields.get(3).and_then(|gid| gid.parse().ok());
            Some(((*fields.first()?).to_owned(), id, gid))
        };
        file.lines()
            .filter_map(parsed)
            .find(|(own, id, _)| own == name || id.to_string() == name)
    };
    // Above it, setuid(2) takes ids for "leave as it is".
    let number = |text: &str| {
        text.parse::<u32>()
            .ok()
            .filter(|&id| id <= i32::MAX.unsigned_abs())
    };
    let found = entry(passwd, user);
    let uid = match (&found, number(user)) {
        (Some((_, uid, _)), _) => *uid,
        (None, Some(uid)) => uid,
        (None, None) => return Err(missing("user", user)),
    };
    if let Some(wanted) = wanted_group {
        let gid = entry(group, wanted)
            .map(|(_, gid, _)| gid)
            .or_else(|| number(wanted));
        let gid = gid.ok_or_else(|| missing("group", wanted))?;
        let groups = Vec::new();
        return Ok(User { uid, gid, groups });
    }
    let gid = found.as_ref().and_then(|(_, _, gid)| *gid).unwrap_or(0);
    let name = found.map(|(name, _, _)| name).unwrap_or_default();
    Ok(User {
        uid,
        gid,
        groups: memberships(group, &name, gid),
    })
}

fn memberships(group: &str, name: &str, own: u32) -> Vec<u32> {
    let member = |line: &str| {
        let fields = fields(line);
        let is_member = fields.get(3)?.split(',').any(|member| member.trim() == name);
        let gid: u32 = fields.get(2)?.parse().ok()?;
        (!name.is_empty() && is_member && gid != own).then_some(gid)
    };
    group.lines().filter_map(member).take(MAX_GROUPS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:44:www:/srv:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:44:web\nlog:x:7:adm,web\nx:y:z\nstaff:x:50:\n";

    fn found(text: &str) -> (u32, u32, Vec<u32>) {
        let user = look_up(text, PASSWD, GROUP).unwrap();
        (user.uid, user.gid, user.groups)
    }

    #[test]
    fn users_bring_their_groups() {
        assert_eq!(found("web"), (33, 44, vec![7]));
        assert_eq!(found("33"), (33, 44, vec![7]));
        assert_eq!(found("root"), (0, 0, vec![]));
    }

    #[test]
    fn a_group_that_is_asked_for_is_the_only_one() {
        assert_eq!(found("web:staff"), (33, 50, vec![]));
        assert_eq!(found("33:7"), (33, 7, vec![]));
        assert_eq!(found("1000:1000"), (1000, 1000, vec![]));
    }

    #[test]
    fn numbers_need_no_entry_and_names_do() {
        assert_eq!(found("1000"), (1000, 0, vec![]));
        let refused = |text| look_up(text, PASSWD, GROUP).unwrap_err();
        assert!(refused("nobody").message.contains("no user 'nobody'"));
        assert!(refused("web:wheel").message.contains("no group 'wheel'"));
        assert_eq!(refused("4294967295").kind, Kind::Invalid);
        assert_eq!(refused("").kind, Kind::Invalid);
        assert_eq!(refused("-1").kind, Kind::Invalid);
    }
}
