//! Which device is behind which virtio-mmio window.

use koya_boot::{VirtioMmio, layout};

/// A device, as the API knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Occupant {
    Drive(String),
    Network(String),
    SharedFolder(String),
    Entropy,
    Vsock,
}

/// The windows of a machine, in the order in which the guest finds them.
pub(super) struct Windows {
    places: Vec<Place>,
    /// Whether there may be more of them: nobody has been told yet how many there are.
    open: bool,
}

struct Place {
    /// Whose place it is; nobody's until a device comes.
    occupant: Option<Occupant>,
    /// Whether it has come.
    taken: bool,
}

impl Windows {
    /// As many as there will be devices.
    pub fn new() -> Self {
        Self {
            places: Vec::new(),
            open: true,
        }
    }

    /// Those of a snapshot, where each device comes back to its own.
    pub fn saved(occupants: impl IntoIterator<Item = Option<Occupant>>) -> Self {
        let place = |occupant| Place {
            occupant,
            taken: false,
        };
        Self {
            places: occupants.into_iter().map(place).collect(),
            open: false,
        }
    }

    /// The window of `occupant`: its own, or the first that is nobody's. Nothing, if there is none left.
    pub fn take(&mut self, occupant: Occupant) -> Option<VirtioMmio> {
        let own = |place: &Place| !place.taken && place.occupant.as_ref() == Some(&occupant);
        let spare = |place: &Place| place.occupant.is_none();
        let index = self.places.iter().position(own);
        let index = match index.or_else(|| self.places.iter().position(spare)) {
            Some(index) => index,
            None if self.open => {
                self.add_spare(1);
                self.places.len().checked_sub(1)?
            }
            None => return None,
        };
        let window = window(index)?;
        *self.places.get_mut(index)? = Place {
            occupant: Some(occupant),
            taken: true,
        };
        Some(window)
    }

    /// How many are nobody's.
    pub fn spare(&self) -> usize {
        let spare = self.places.iter().filter(|place| place.occupant.is_none());
        spare.count()
    }

    /// Takes the window of `occupant` back.
    pub fn leave(&mut self, occupant: &Occupant) {
        let own = |place: &&mut Place| place.occupant.as_ref() == Some(occupant);
        if let Some(place) = self.places.iter_mut().find(own) {
            *place = Place {
                occupant: None,
                taken: false,
            };
        }
    }

    /// Leaves it at those that there are: the guest is told.
    pub fn close(&mut self) {
        self.open = false;
    }

    /// Adds windows without a device.
    pub fn add_spare(&mut self, count: usize) {
        let empty = || Place {
            occupant: None,
            taken: false,
        };
        self.places.extend(std::iter::repeat_with(empty).take(count));
    }

    /// All of them, and whether there is a device. Nothing, if they are more than a machine can have.
    pub fn all(&self) -> Option<Vec<(VirtioMmio, bool)>> {
        let places = self.places.iter().enumerate();
        places
            .map(|(index, place)| Some((window(index)?, place.taken)))
            .collect()
    }

    /// Whose they are, in order.
    pub fn occupants(&self) -> impl Iterator<Item = Option<&Occupant>> {
        self.places.iter().map(|place| place.occupant.as_ref())
    }

    /// A device of the snapshot that has not come.
    pub fn missing(&self) -> Option<&Occupant> {
        let place = self
            .places
            .iter()
            .find(|place| !place.taken && place.occupant.is_some());
        place?.occupant.as_ref()
    }
}

fn window(index: usize) -> Option<VirtioMmio> {
    let (address, gsi) = layout::virtio_mmio_slot(index)?;
    Some(VirtioMmio {
        address,
        length: layout::VIRTIO_MMIO_SLOT_LENGTH,
        gsi,
    })
}

impl std::fmt::Display for Occupant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Drive(id) => write!(f, "drive {id:?}"),
            Self::Network(id) => write!(f, "network interface {id:?}"),
            Self::SharedFolder(id) => write!(f, "shared folder {id:?}"),
            Self::Entropy => f.write_str("the entropy device"),
            Self::Vsock => f.write_str("the socket device"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(id: &str) -> Occupant {
        Occupant::Drive(id.to_owned())
    }

    #[test]
    fn devices_come_one_after_the_other() {
        let mut windows = Windows::new();
        let first = windows.take(drive("a")).unwrap();
        let second = windows.take(Occupant::Vsock).unwrap();
        assert_eq!((first.gsi, second.gsi), (5, 6));
        windows.add_spare(2);
        let taken: Vec<_> = windows.all().unwrap().iter().map(|(_, taken)| *taken).collect();
        assert_eq!(taken, [true, true, false, false]);
        windows.add_spare(16);
        assert!(windows.all().is_none());
    }

    #[test]
    fn more_devices_than_windows_are_refused() {
        let mut windows = Windows::new();
        for index in 0..19 {
            assert!(windows.take(drive(&index.to_string())).is_some());
        }
        assert!(windows.take(drive("one more")).is_none());
    }

    #[test]
    fn once_the_guest_knows_them_only_spare_ones_are_given_out() {
        let mut windows = Windows::new();
        windows.take(drive("a")).unwrap();
        windows.add_spare(1);
        windows.close();
        assert_eq!(windows.spare(), 1);
        assert_eq!(windows.take(drive("b")).unwrap().gsi, 6);
        assert_eq!(windows.spare(), 0);
        assert!(windows.take(drive("c")).is_none());
        windows.leave(&drive("b"));
        assert_eq!(windows.take(drive("c")).unwrap().gsi, 6);
    }

    #[test]
    fn saved_devices_come_back_to_their_windows_and_new_ones_to_spare_ones() {
        let saved = [Some(drive("a")), None, Some(Occupant::Vsock), None];
        let mut windows = Windows::saved(saved);
        assert_eq!(windows.missing(), Some(&drive("a")));
        assert_eq!(windows.take(Occupant::Vsock).unwrap().gsi, 7);
        assert_eq!(windows.take(drive("b")).unwrap().gsi, 6);
        assert_eq!(windows.take(drive("a")).unwrap().gsi, 5);
        assert_eq!(windows.missing(), None);
        assert_eq!(windows.take(drive("c")).unwrap().gsi, 8);
        assert!(windows.take(drive("d")).is_none());
    }
}
