//! `koya load`, `images` and `rmi`, and the image that `koya run` names.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use koya_image::{Event, Image, ImageError, Progress, PullOptions, Reference, Source, Store};
use rustix::fs::OFlags;
use serde_json::json;

use crate::args::{ListArgs, LoadArgs, NamesArgs, PullArgs, TagArgs};
use crate::error::CliError;
use crate::home::Home;
use crate::list::ago;
use crate::show::{self, Form};
use crate::size;

/// Digits of an id that a table shows.
const SHOWN_ID: usize = 12;

/// The image that a command line names; a file or folder is loaded first, and one that is missing is pulled if `pull`
/// allows it, with a bar on a terminal.
///
/// # Errors
/// [`CliError::Image`]
pub fn find_or_fetch(store: &Store, text: &str, pull: &str) -> Result<Image, CliError> {
    let source = Source::parse(text)?;
    let Source::Reference(reference) = &source else {
        return with_bar(|progress| store.load(&source, progress));
    };
    let found = match pull {
        "always" => Err(ImageError::NotFound(text.to_owned())),
        _ => store.find(text),
    };
    match found {
        Err(ImageError::NotFound(_)) if pull != "never" => pull_one(store, reference),
        found => Ok(found?),
    }
}

fn pull_one(store: &Store, reference: &Reference) -> Result<Image, CliError> {
    with_bar(|progress| store.pull(reference, &PullOptions::default(), progress))
}

/// Does something that takes its time, with a bar on a terminal.
fn with_bar<T>(work: impl FnOnce(&mut dyn Progress) -> Result<T, ImageError>) -> Result<T, CliError> {
    if !io::stderr().is_terminal() {
        return Ok(work(&mut koya_image::Quiet)?);
    }
    let bar = ProgressBar::no_length();
    let result = work(&mut |event: Event<'_>| show(&bar, event));
    bar.finish_and_clear();
    Ok(result?)
}

/// `koya pull`
///
/// # Errors
/// [`CliError::Image`]
pub fn pull(args: &PullArgs) -> Result<ExitCode, CliError> {
    let store = Home::find()?.images()?;
    let wrong = |source| ImageError::Reference {
        text: args.image.clone(),
        source,
    };
    let reference: Reference = args.image.parse().map_err(wrong)?;
    let image = pull_one(&store, &reference)?;
    if args.quiet {
        crate::print(&image.id().to_string())?;
    } else {
        crate::print(&reference.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Draws what loading an image tells.
fn show(bar: &ProgressBar, event: Event<'_>) {
    match event {
        Event::Started { total, .. } => {
            let template = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar.set_message("loading");
        }
        Event::Waiting => bar.set_message("waiting for another load of the same image"),
        Event::Downloading { total, .. } => {
            bar.set_length(total);
            bar.set_message("pulling");
        }
        Event::Downloaded { done } => bar.set_position(done),
        Event::Retry { reason, .. } => bar.set_message(format!("trying again: {reason}")),
        Event::Read { done } => bar.set_position(done),
        Event::Finishing => bar.set_message("finishing"),
        _ => {}
    }
}

/// What comes over standard input, in a file without a name: an archive is read more than once.
fn spool(folder: &Path) -> Result<File, CliError> {
    let mut input = io::stdin().lock();
    if input.is_terminal() {
        return Err(CliError::NoArchive);
    }
    let mut file = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlags::TMPFILE.bits().cast_signed())
        .open(folder)
        .map_err(CliError::Archive)?;
    match io::copy(&mut input, &mut file).map_err(CliError::Archive)? {
        0 => Err(CliError::NoArchive),
        _ => Ok(file),
    }
}

/// `koya load`
///
/// # Errors
/// [`CliError::Image`]
pub fn load(args: &LoadArgs) -> Result<ExitCode, CliError> {
    let home = Home::find()?;
    let store = home.images()?;
    let spooled;
    let source = match args.path.as_ref().or(args.input.as_ref()) {
        Some(path) => Source::parse(path)?,
        None => {
            spooled = spool(home.folder())?;
            Source::parse(&format!("/proc/self/fd/{}", spooled.as_raw_fd()))?
        }
    };
    for image in with_bar(|progress| store.load_all(&source, progress))? {
        if args.quiet {
            crate::print(&image.id().to_string())?;
        } else {
            crate::print(&format!("Loaded image: {}", name(&image)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `koya images`
///
/// # Errors
/// [`CliError::Image`]
pub fn list(args: &ListArgs) -> Result<ExitCode, CliError> {
    let images = Home::find()?.images()?.list()?;
    let form = Form::parse(&args.format)?;
    let id = |image: &Image| -> String {
        let digits = if args.no_trunc { usize::MAX } else { SHOWN_ID };
        image.id().hex().chars().take(digits).collect()
    };
    if args.quiet {
        for image in &images {
            crate::print(&id(image))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let lines: Vec<_> = images
        .iter()
        .map(|image| {
            let names = image.names().iter().map(Reference::familiar);
            json!({
                "Image": name(image),
                "ID": id(image),
                "Digest": image.id().to_string(),
                "Names": names.collect::<Vec<_>>(),
                "LoadedSince": ago(image.loaded().saturating_mul(1_000_000_000)),
                "Loaded": image.loaded(),
                "Size": size::show(image.size()),
                "Bytes": image.size(),
            })
        })
        .collect();
    let columns = [
        ("IMAGE", "Image"),
        ("IMAGE ID", "ID"),
        ("LOADED", "LoadedSince"),
        ("SIZE", "Size"),
    ];
    show::list(&form, columns, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// `koya tag`
///
/// # Errors
/// [`CliError::Image`]; [`CliError::TagDigest`] for a name with a digest.
pub fn tag(args: &TagArgs) -> Result<ExitCode, CliError> {
    let wrong = |source| ImageError::Reference {
        text: args.name.clone(),
        source,
    };
    let name: Reference = args.name.parse().map_err(wrong)?;
    if name.digest().is_some() {
        return Err(CliError::TagDigest(args.name.clone()));
    }
    Home::find()?.images()?.tag(&args.image, &name)?;
    Ok(ExitCode::SUCCESS)
}

/// `koya rmi`
///
/// # Errors
/// [`CliError`], when nothing could be done at all.
pub fn rmi(args: &NamesArgs) -> Result<ExitCode, CliError> {
    let store = Home::find()?.images()?;
    let mut code = ExitCode::SUCCESS;
    for name in &args.names {
        match store.remove(name) {
            Ok(removed) => {
                for name in &removed.untagged {
                    crate::print(&format!("Untagged: {}", name.familiar()))?;
                }
                if let Some(id) = &removed.deleted {
                    crate::print(&format!("Deleted: {id}"))?;
                }
            }
            Err(error) => {
                crate::complain(&error.into());
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// What people call an image: its first name, or where it came from.
fn name(image: &Image) -> String {
    match image.names().first() {
        Some(name) => name.familiar(),
        None => image.origin().to_owned(),
    }
}
