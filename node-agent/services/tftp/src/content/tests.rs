use std::path::PathBuf;

use tempfile::TempDir;

use super::writer::{Partial, TempFile};
use super::*;

struct Fixture {
    dir: TempDir,
    store: ContentStore,
}

async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    Fixture { dir, store }
}

async fn open(dir: &TempDir) -> ContentStore {
    ContentStore::open(dir.path().join("content"), 0).await.unwrap()
}

fn hash_of(bytes: &[u8]) -> ContentHash {
    ContentHash(Sha256::digest(bytes).into())
}

/// Bytes without a pattern that a chunk's place could repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut x = 1_u32;
    (0..length)
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            x.to_be_bytes()[0]
        })
        .collect()
}

impl Fixture {
    async fn write(&self, bytes: &[u8]) -> Result<ContentHash, ContentError> {
        let mut writer = self.store.writer(u64::MAX).await?;
        for piece in bytes.chunks(100_000) {
            writer.write(Bytes::copy_from_slice(piece)).await?;
        }
        let (hash, size) = writer.commit().await?;
        assert_eq!((hash, size), (hash_of(bytes), bytes.len() as u64));
        Ok(hash)
    }

    /// Every file below the store's directory, relative to it.
    fn files(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in entries(dir).unwrap() {
                if entry.path().is_dir() {
                    walk(&entry.path(), found)
                } else {
                    found.push(entry.path())
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.store.inner.dir, &mut found);
        found
            .iter()
            .map(|path| path.strip_prefix(&self.store.inner.dir).unwrap().to_owned())
            .collect()
    }
}

async fn read_all(store: &ContentStore, key: BlobKey) -> Vec<u8> {
    let mut all = Vec::new();
    for index in 0..store.length(&key).unwrap().div_ceil(CHUNK_BYTES) {
        all.extend_from_slice(&store.load(&key, index).await.unwrap());
    }
    all
}

#[tokio::test]
async fn content_is_read_back_after_a_restart() {
    let fixture = fixture().await;
    let bytes = noise(700_000);
    let hash = fixture.write(&bytes).await.unwrap();
    let empty = fixture.write(b"").await.unwrap();
    for store in [fixture.store.clone(), open(&fixture.dir).await] {
        assert_eq!((store.size(&hash), store.size(&empty)), (Some(700_000), Some(0)));
        assert_eq!(read_all(&store, BlobKey::Raw(hash)).await, bytes);
        assert!(store.verify(hash).await.unwrap());
        assert_eq!(store.list().len(), 2);
    }
    let name = hash.to_string();
    assert!(fixture.files().contains(&Path::new(&name[..2]).join(&name)));
}

#[tokio::test]
async fn what_was_not_committed_leaves_nothing() {
    let fixture = fixture().await;
    let mut writer = fixture.store.writer(u64::MAX).await.unwrap();
    writer.write(noise(600_000).into()).await.unwrap();
    assert_eq!(fixture.files().len(), 1);
    drop(writer);
    assert!(fixture.files().is_empty());
    // A process that was killed could not clean up: the next one does.
    fs::write(fixture.dir.path().join("content/tmp/7"), "half").unwrap();
    let store = open(&fixture.dir).await;
    assert!(fixture.files().is_empty() && store.list().is_empty());
}

#[tokio::test]
async fn other_bytes_than_expected_are_refused() {
    let fixture = fixture().await;
    let expected = hash_of(b"good");
    let mut writer = fixture.store.writer_of(expected, 4).await.unwrap();
    writer.write(Bytes::from_static(b"evil")).await.unwrap();
    let error = writer.commit().await.unwrap_err();
    assert!(
        matches!(error, ContentError::Mismatch { expected: e, .. } if e == expected),
        "{error}"
    );
    let mut writer = fixture.store.writer_of(expected, 4).await.unwrap();
    let error = writer.write(Bytes::from_static(b"too much")).await.unwrap_err();
    assert!(
        matches!(error, ContentError::TooLarge { bytes_max: 4 }),
        "{error}"
    );
    assert!(matches!(writer.commit().await, Err(ContentError::Abandoned)));
    assert!(fixture.files().is_empty() && fixture.store.list().is_empty());
}

#[tokio::test]
async fn full_disk_is_named_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("partial");
    fs::write(&path, "").unwrap();
    // Every write to this device fails with ENOSPC.
    let file = File::options().write(true).open("/dev/full").unwrap();
    let mut partial = Partial {
        temp: TempFile {
            file,
            path: path.clone(),
            kept: false,
        },
        hasher: Sha256::new(),
    };
    let error = partial.write(b"bytes").unwrap_err();
    assert!(
        matches!(error, ContentError::DiskFull { action: "write", .. }),
        "{error}"
    );
    assert!(error.to_string().contains("free space"), "{error}");
    drop(partial);
    assert!(!path.exists());
}

#[tokio::test]
async fn refused_rename_leaves_nothing() {
    let fixture = fixture().await;
    let name = hash_of(b"x").to_string();
    // A file stands where the directory for the content must be.
    fs::write(fixture.store.inner.dir.join(&name[..2]), "").unwrap();
    assert!(matches!(
        fixture.write(b"x").await,
        Err(ContentError::Io {
            action: "rename into",
            ..
        })
    ));
    assert_eq!(fixture.files(), [Path::new(&name[..2])]);
    assert!(fixture.store.list().is_empty());
}

#[tokio::test]
async fn concurrent_loads_share_one_read() {
    let fixture = fixture().await;
    let hash = fixture.write(&noise(300_000)).await.unwrap();
    let key = BlobKey::Raw(hash);
    assert!(fixture.store.chunk(&key, 1).is_none());
    let loads = (0..50).map(|_| fixture.store.load(&key, 1));
    let chunks = futures::future::try_join_all(loads).await.unwrap();
    assert_eq!(chunks[0].len(), 300_000 - 262_144);
    assert!(chunks.iter().all(|chunk| chunk.as_ptr() == chunks[0].as_ptr()));
    assert_eq!(fixture.store.chunk(&key, 1).unwrap().as_ptr(), chunks[0].as_ptr());
    assert!(lock(&fixture.store.inner.loading).is_empty());
}

#[tokio::test]
async fn block_is_joined_across_chunks() {
    let fixture = fixture().await;
    let bytes = noise(600_000);
    let key = BlobKey::Raw(fixture.write(&bytes).await.unwrap());
    let mut out = b"head".to_vec();
    assert_eq!(fixture.store.append_to(&key, 262_000, 1468, &mut out), Err(0));
    fixture.store.load(&key, 0).await.unwrap();
    assert_eq!(fixture.store.append_to(&key, 262_000, 1468, &mut out), Err(1));
    assert_eq!(out, b"head");
    fixture.store.load(&key, 1).await.unwrap();
    fixture.store.load(&key, 2).await.unwrap();
    for (offset, length, expected) in [
        (262_000, 1468, &bytes[262_000..263_468]),
        (262_143, 262_146, &bytes[262_143..524_289]),
        (599_999, 512, &bytes[599_999..]),
        (600_000, 512, &[]),
        (0, 0, &[]),
    ] {
        out.truncate(4);
        assert_eq!(fixture.store.append_to(&key, offset, length, &mut out), Ok(()));
        assert_eq!(&out[4..], expected, "{length} bytes from {offset}");
    }
    // The last block of a file of whole chunks is empty, and no chunk needs to be there for it.
    let whole = BlobKey::Raw(fixture.write(&noise(262_144)).await.unwrap());
    assert_eq!(fixture.store.append_to(&whole, 262_144, 0, &mut out), Ok(()));
}

#[tokio::test]
async fn netascii_conversion_is_exact_and_remade_when_gone() {
    let fixture = fixture().await;
    // RFC 1350 §1 with RFC 854: LF becomes CR LF, a bare CR becomes CR NUL.
    let hash = fixture.write(b"a\nb\rc\r\n\xff\0").await.unwrap();
    let key = BlobKey::Netascii(hash);
    let expected = b"a\r\nb\r\0c\r\0\r\n\xff\0";
    assert_eq!(fixture.store.netascii(hash).await.unwrap(), expected.len() as u64);
    assert_eq!(read_all(&fixture.store, key).await, expected);
    fixture.store.remove(&key).unwrap();
    assert!(fixture.store.contains(&hash) && fixture.store.length(&key).is_none());
    assert_eq!(fixture.store.load(&key, 0).await.unwrap(), expected.as_slice());
    // A restart throws it away: it was never synced.
    let store = open(&fixture.dir).await;
    assert_eq!(store.length(&key), None);
    assert_eq!(store.load(&key, 0).await.unwrap(), expected.as_slice());
    store.remove(&BlobKey::Raw(hash)).unwrap();
    assert!(fixture.files().is_empty() && store.list().is_empty());
    assert!(matches!(store.netascii(hash).await, Err(ContentError::Missing(missing)) if missing == hash));
}

#[tokio::test]
async fn netascii_of_a_long_file_is_that_of_its_bytes() {
    let fixture = fixture().await;
    let mut bytes = noise(300_000);
    bytes[262_143] = b'\r';
    bytes[262_144] = b'\n';
    let hash = fixture.write(&bytes).await.unwrap();
    let length = fixture.store.netascii(hash).await.unwrap();
    let specials = bytes.iter().filter(|byte| matches!(byte, b'\r' | b'\n')).count();
    assert_eq!(length, (bytes.len() + specials) as u64);
    let converted = read_all(&fixture.store, BlobKey::Netascii(hash)).await;
    let text: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| match byte {
            b'\n' => vec![b'\r', b'\n'],
            b'\r' => vec![b'\r', 0],
            byte => vec![*byte],
        })
        .collect();
    assert!(converted == text);
}

#[tokio::test]
async fn rotten_content_is_found_and_healed_by_writing_it_again() {
    let fixture = fixture().await;
    let bytes = noise(1000);
    let hash = fixture.write(&bytes).await.unwrap();
    let path = fixture.store.raw_path(&hash);
    let mut rotten = bytes.clone();
    rotten[500] ^= 1;
    fs::write(&path, &rotten).unwrap();
    assert!(!fixture.store.verify(hash).await.unwrap());
    assert_eq!(fixture.store.load(&BlobKey::Raw(hash), 0).await.unwrap(), rotten);
    fixture.write(&bytes).await.unwrap();
    assert!(fixture.store.verify(hash).await.unwrap());
    assert_eq!(fixture.store.load(&BlobKey::Raw(hash), 0).await.unwrap(), bytes);
}

#[tokio::test]
async fn content_that_vanished_or_shrank_counts_as_missing() {
    let fixture = fixture().await;
    let (gone, short) = (
        fixture.write(b"gone").await.unwrap(),
        fixture.write(b"short").await.unwrap(),
    );
    fs::remove_file(fixture.store.raw_path(&gone)).unwrap();
    fs::write(fixture.store.raw_path(&short), "sh").unwrap();
    for hash in [gone, short] {
        assert!(fixture.store.contains(&hash));
        assert!(matches!(
            fixture.store.load(&BlobKey::Raw(hash), 0).await,
            Err(ContentError::Missing(_))
        ));
        assert!(!fixture.store.contains(&hash));
        assert!(!fixture.store.verify(hash).await.unwrap());
    }
}

#[tokio::test]
async fn strangers_in_the_directory_are_left_alone() {
    let fixture = fixture().await;
    let dir = &fixture.store.inner.dir;
    let name = hash_of(b"x").to_string();
    fs::create_dir(dir.join("zz")).unwrap();
    for stranger in ["zz/file", &format!("zz/{name}"), "README"] {
        fs::write(dir.join(stranger), "x").unwrap();
    }
    assert!(open(&fixture.dir).await.list().is_empty());
    assert_eq!(fixture.files().len(), 3);
}

#[tokio::test]
async fn more_files_than_stay_open_are_read() {
    let fixture = fixture().await;
    let mut hashes = Vec::new();
    for number in 0..OPEN_FILES_MAX + 10 {
        hashes.push(fixture.write(number.to_string().as_bytes()).await.unwrap());
    }
    for (number, hash) in hashes.iter().enumerate().chain(hashes.iter().enumerate().rev()) {
        lock(&fixture.store.inner.cache).forget(&BlobKey::Raw(*hash));
        assert_eq!(
            fixture.store.load(&BlobKey::Raw(*hash), 0).await.unwrap(),
            number.to_string()
        );
    }
    assert_eq!(lock(&fixture.store.inner.open_files).len(), OPEN_FILES_MAX);
}
