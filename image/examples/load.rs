//! Loads images into a store and says where their disks are: `load STORE SOURCE…`.
use koya_image::{Event, Source, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let store = Store::open(arguments.next().ok_or("usage: load STORE SOURCE…")?)?;
    for source in arguments {
        let loaded = store.load_all(&Source::parse(&source)?, &mut |event: Event<'_>| match event {
            Event::Read { .. } => {}
            event => eprintln!("{event:?}"),
        });
        let images = loaded.inspect_err(|error| {
            let mut cause: Option<&dyn std::error::Error> = Some(error);
            while let Some(error) = cause {
                eprintln!("error: {error}");
                cause = error.source();
            }
        })?;
        for image in images {
            println!(
                "{} {:?} {:?} {}",
                image.id(),
                image.names(),
                image.config().command(),
                store.disk(&image)?.display()
            );
        }
    }
    Ok(())
}
