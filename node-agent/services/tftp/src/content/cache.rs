//! Pieces of content in memory, shared by all sessions, bounded in bytes. Pure.
//!
//! Eviction is "second chance": a hit only sets a mark, so it costs one search and no allocation; a hand goes round
//! and drops the first piece without a mark, clearing marks on its way. Content that is read once from end to end
//! therefore leaves before what many sessions read.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{BlobKey, CHUNK_BYTES};

/// The cache holds at least this many chunks whatever its limit: a chunk that was just loaded must stay for the send
/// that waits for it.
const CHUNKS_MIN: u64 = 8;

/// One chunk of one blob.
pub(super) type ChunkKey = (BlobKey, u64);

#[derive(Debug)]
pub(super) struct ChunkCache {
    slots: Vec<Slot>,
    places: BTreeMap<ChunkKey, usize>,
    hand: usize,
    bytes: u64,
    bytes_max: u64,
}

#[derive(Debug)]
struct Slot {
    key: ChunkKey,
    chunk: Bytes,
    hit: bool,
}

impl ChunkCache {
    pub(super) fn new(bytes_max: u64) -> Self {
        let bytes_max = bytes_max.max(CHUNKS_MIN * CHUNK_BYTES);
        Self {
            slots: Vec::new(),
            places: BTreeMap::new(),
            hand: 0,
            bytes: 0,
            bytes_max,
        }
    }

    pub(super) fn get(&mut self, key: &ChunkKey) -> Option<&Bytes> {
        let slot = self.slots.get_mut(*self.places.get(key)?)?;
        slot.hit = true;
        Some(&slot.chunk)
    }

    pub(super) fn insert(&mut self, key: ChunkKey, chunk: Bytes) {
        self.remove(&key);
        let added = cost(&chunk);
        while self.bytes + added > self.bytes_max && !self.slots.is_empty() {
            self.evict_one();
        }
        self.bytes += added;
        self.places.insert(key, self.slots.len());
        self.slots.push(Slot {
            key,
            chunk,
            hit: false,
        });
    }

    /// Forgets all chunks of a blob.
    pub(super) fn forget(&mut self, blob: &BlobKey) {
        let chunks: Vec<_> = self
            .places
            .range((*blob, 0)..=(*blob, u64::MAX))
            .map(|(key, _)| *key)
            .collect();
        for key in chunks {
            self.remove(&key);
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn evict_one(&mut self) {
        loop {
            self.hand %= self.slots.len();
            let slot = &mut self.slots[self.hand];
            if !slot.hit {
                let key = slot.key;
                self.remove(&key);
                return;
            }
            slot.hit = false;
            self.hand += 1;
        }
    }

    fn remove(&mut self, key: &ChunkKey) {
        let Some(place) = self.places.remove(key) else {
            return;
        };
        let slot = self.slots.swap_remove(place);
        self.bytes -= cost(&slot.chunk);
        if let Some(moved) = self.slots.get(place) {
            self.places.insert(moved.key, place);
        }
    }
}

/// A chunk's bytes, and those of its places in the tables: many tiny files must not be free.
fn cost(chunk: &Bytes) -> u64 {
    256 + chunk.len() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::ContentHash;

    fn key(byte: u8, index: u64) -> ChunkKey {
        (BlobKey::Raw(ContentHash([byte; 32])), index)
    }

    fn chunk() -> Bytes {
        Bytes::from(vec![0; usize::try_from(CHUNK_BYTES).unwrap()])
    }

    #[test]
    fn what_is_hit_outlives_what_is_read_once() {
        let mut cache = ChunkCache::new(0);
        cache.insert(key(1, 0), chunk());
        for index in 0..100 {
            assert!(cache.get(&key(1, 0)).is_some(), "after {index}");
            cache.insert(key(2, index), chunk());
        }
        assert!(cache.bytes() <= CHUNKS_MIN * CHUNK_BYTES);
        assert!(cache.get(&key(2, 0)).is_none());
        assert!(cache.get(&key(2, 99)).is_some());
    }

    #[test]
    fn forgotten_blob_leaves_others_alone() {
        let mut cache = ChunkCache::new(u64::MAX);
        for index in 0..10 {
            cache.insert(key(1, index), chunk());
            cache.insert(key(2, index), chunk());
        }
        cache.forget(&key(1, 0).0);
        assert!(
            (0..10).all(|index| cache.get(&key(1, index)).is_none() && cache.get(&key(2, index)).is_some())
        );
    }

    proptest! {
        #[test]
        fn tables_agree(steps in prop::collection::vec((0_u8..3, 0_u64..12, 0_u8..4, 0_usize..400_000), 0..200)) {
            let mut cache = ChunkCache::new(0);
            for (byte, index, kind, length) in steps {
                match kind {
                    0 => cache.forget(&key(byte, 0).0),
                    1 => { cache.get(&key(byte, index)); }
                    _ => {
                        cache.insert(key(byte, index), Bytes::from(vec![byte; length]));
                        prop_assert_eq!(cache.get(&key(byte, index)).map(Bytes::len), Some(length));
                    }
                }
                prop_assert_eq!(cache.places.len(), cache.slots.len());
                prop_assert!(cache.places.iter().all(|(key, place)| cache.slots[*place].key == *key));
                prop_assert_eq!(cache.bytes(), cache.slots.iter().map(|slot| cost(&slot.chunk)).sum::<u64>());
                prop_assert!(cache.bytes() <= cache.bytes_max);
            }
        }
    }
}
