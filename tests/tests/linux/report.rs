//! What a guest reported on its console.

use std::sync::OnceLock;

/// The text of a console.
#[derive(Clone)]
pub struct Report(pub String);

impl Report {
    /// Every value that the script reported by `say NAME VALUE`.
    pub fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let prefix = format!("koya-test: {name}=");
        self.0
            .lines()
            .filter_map(move |line| Some(line.split_once(&prefix)?.1.trim()))
    }

    /// The first value of that name.
    pub fn value(&self, name: &str) -> &str {
        let value = self.values(name).next();
        value.unwrap_or_else(|| panic!("the guest did not say {name}\n--- console\n{}", self.0))
    }

    /// The first value of that name, as a number.
    pub fn number(&self, name: &str) -> u64 {
        let value = self.value(name);
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value:?} is not a number\n--- console\n{}", self.0))
    }

    /// A word of the line in which the initial RAM disk says where it is: `kernel`, `cpus` or `memory`, in KiB.
    pub fn found(&self, what: &str) -> &str {
        let line = self.0.lines().find(|line| line.contains("koya-guest: kernel="));
        let mut words = line.unwrap_or_default().split(' ');
        let word = words.find_map(|word| word.strip_prefix(what)?.strip_prefix('='));
        word.unwrap_or_else(|| panic!("init did not say {what}\n--- console\n{}", self.0))
    }
}

/// What several tests look at, made by the first of them. One that failed is not tried again.
pub struct Shared<T>(OnceLock<Option<T>>);

impl<T> Shared<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Makes it, unless somebody has.
    pub fn get(&self, make: impl FnOnce() -> T) -> &T {
        let mut make = Some(make);
        let made = self.0.get_or_init(|| {
            let make = make.take().unwrap();
            // Its message is on standard error, and the test that meets `None` fails for it.
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(make)).ok()
        });
        made.as_ref()
            .expect("the guest that this test looks at failed; the message is with the first such test")
    }
}
