//! A disk in memory that notes every write and sync, can fail, and can be cut off at any moment.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests and simulations only run where usize has 64 bits"
)]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{Disk, File};

/// What a disk writes whole or not at all.
pub(crate) const SECTOR: u64 = 512;

/// Everything that happened, in order.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Write {
        file: usize,
        offset: u64,
        bytes: Vec<u8>,
    },
    Length {
        file: usize,
        bytes: u64,
    },
    Sync {
        file: usize,
    },
    Create {
        name: String,
        file: usize,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    SyncNames,
    /// The test asked for step number n; the test was told that it is stored.
    Asked(usize),
    Answered(usize),
}

/// A disk's files.
pub(crate) type Image = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
pub(crate) struct Sim {
    base: Image,
    names: BTreeMap<String, usize>,
    files: Vec<Vec<u8>>,
    pub(crate) events: Vec<Event>,
    /// Syncs until one fails.
    pub(crate) fail_sync_in: Option<usize>,
    pub(crate) fail_writes: bool,
    /// Bytes that all files together may have.
    pub(crate) bytes_max: Option<u64>,
}

#[derive(Clone, Default)]
pub(crate) struct SimDisk(Arc<Mutex<Sim>>);

struct SimFile {
    disk: SimDisk,
    file: usize,
}

impl SimDisk {
    pub(crate) fn new(image: &Image) -> Self {
        let mut sim = Sim {
            base: image.clone(),
            ..Sim::default()
        };
        for (name, bytes) in image {
            sim.names.insert(name.clone(), sim.files.len());
            sim.files.push(bytes.clone());
        }
        Self(Arc::new(Mutex::new(sim)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Sim> {
        self.0.lock().expect("nobody panics with it")
    }

    pub(crate) fn note(&self, event: Event) {
        self.lock().events.push(event);
    }

    /// What a process sees that starts after this one was killed.
    pub(crate) fn image(&self) -> Image {
        let sim = self.lock();
        sim.names
            .iter()
            .map(|(name, file)| (name.clone(), sim.files[*file].clone()))
            .collect()
    }
}

impl Sim {
    /// The image after a power cut that followed the first `count` events. `keep` says of each unsynced sector, and of
    /// each unsynced change of a name, whether it reached the disk; names change in order.
    pub(crate) fn cut(&self, count: usize, keep: &mut dyn FnMut() -> bool) -> Image {
        self.cut_at(&self.events[..count], keep)
    }

    pub(crate) fn cut_at(&self, events: &[Event], keep: &mut dyn FnMut() -> bool) -> Image {
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        let mut files: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        for (file, (name, bytes)) in self.base.iter().enumerate() {
            names.insert(name.clone(), file);
            files.insert(file, bytes.clone());
        }
        let mut unsynced: Vec<(usize, &Event)> = Vec::new();
        let mut unsynced_names = Vec::new();
        for event in events {
            match event {
                Event::Write { file, .. } | Event::Length { file, .. } => unsynced.push((*file, event)),
                Event::Sync { file } => {
                    for (_, event) in unsynced.iter().filter(|(of, _)| of == file) {
                        write(files.entry(*file).or_default(), event, &mut || true);
                    }
                    unsynced.retain(|(of, _)| of != file);
                }
                Event::Create { .. } | Event::Rename { .. } | Event::Remove { .. } => {
                    unsynced_names.push(event)
                }
                Event::SyncNames => {
                    unsynced_names
                        .drain(..)
                        .for_each(|event| rename(&mut names, event));
                }
                Event::Asked(_) | Event::Answered(_) => {}
            }
        }
        for (file, event) in unsynced {
            write(files.entry(file).or_default(), event, keep);
        }
        for event in unsynced_names {
            if !keep() {
                break;
            }
            rename(&mut names, event);
        }
        names
            .into_iter()
            .map(|(name, file)| (name, files.get(&file).cloned().unwrap_or_default()))
            .collect()
    }

    /// How many unsynced sectors and names there are after the first `count` events.
    pub(crate) fn unsynced(&self, count: usize) -> usize {
        let mut pieces = 0;
        self.cut(count, &mut || {
            pieces += 1;
            true
        });
        pieces
    }
}

fn write(into: &mut Vec<u8>, event: &Event, keep: &mut dyn FnMut() -> bool) {
    match event {
        Event::Length { bytes, .. } => {
            if keep() {
                into.resize(*bytes as usize, 0);
            }
        }
        Event::Write { offset, bytes, .. } => {
            let (mut from, end) = (*offset, offset + bytes.len() as u64);
            while from < end {
                let to = (from / SECTOR + 1).saturating_mul(SECTOR).min(end);
                if keep() {
                    if into.len() < to as usize {
                        into.resize(to as usize, 0);
                    }
                    let piece = &bytes[(from - offset) as usize..(to - offset) as usize];
                    into[from as usize..to as usize].copy_from_slice(piece);
                }
                from = to;
            }
        }
        _ => unreachable!("only writes are kept"),
    }
}

fn rename(names: &mut BTreeMap<String, usize>, event: &Event) {
    match event {
        Event::Create { name, file } => {
            names.insert(name.clone(), *file);
        }
        Event::Rename { from, to } => {
            let file = names.remove(from).expect("created before");
            names.insert(to.clone(), file);
        }
        Event::Remove { name } => {
            names.remove(name).expect("created before");
        }
        _ => unreachable!("only names are kept"),
    }
}

impl Disk for SimDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = *self.lock().names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            file,
        }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut sim = self.lock();
        let file = sim.files.len();
        sim.files.push(Vec::new());
        sim.names.insert(name.to_owned(), file);
        sim.events.push(Event::Create {
            name: name.to_owned(),
            file,
        });
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            file,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut sim = self.lock();
        let file = sim.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        sim.names.insert(to.to_owned(), file);
        sim.events.push(Event::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut sim = self.lock();
        sim.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        sim.events.push(Event::Remove {
            name: name.to_owned(),
        });
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        self.lock().events.push(Event::SyncNames);
        Ok(())
    }
}

impl File for SimFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.lock().files[self.file].len() as u64)
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        let mut sim = self.disk.lock();
        sim.files[self.file].resize(bytes as usize, 0);
        sim.events.push(Event::Length {
            file: self.file,
            bytes,
        });
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let sim = self.disk.lock();
        let from = offset as usize;
        let found = sim.files[self.file]
            .get(from..from + buffer.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        let mut sim = self.disk.lock();
        if sim.fail_writes {
            return Err(io::Error::other("injected write error"));
        }
        let end = offset as usize + buffer.len();
        let length = sim.files[self.file].len();
        if end > length {
            let used: usize = sim.names.values().map(|file| sim.files[*file].len()).sum();
            if sim
                .bytes_max
                .is_some_and(|max| (used + end - length) as u64 > max)
            {
                return Err(io::ErrorKind::StorageFull.into());
            }
            sim.files[self.file].resize(end, 0);
        }
        sim.files[self.file][offset as usize..end].copy_from_slice(buffer);
        sim.events.push(Event::Write {
            file: self.file,
            offset,
            bytes: buffer.to_vec(),
        });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut sim = self.disk.lock();
        if let Some(left) = sim.fail_sync_in {
            if left == 0 {
                return Err(io::Error::other("injected sync error"));
            }
            sim.fail_sync_in = Some(left - 1);
        }
        sim.events.push(Event::Sync { file: self.file });
        Ok(())
    }

    fn forget_cached(&self) {}
}
