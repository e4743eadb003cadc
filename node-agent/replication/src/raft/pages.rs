//! Large buffers on pages of their own. A snapshot is tens of megabytes for a moment; taken from the heap, that much stays
//! with the process for good, since an allocator gives back only what lies at the end of what it holds.

use std::fs::File;
use std::io::{self, Read as _, Write};

use bytes::Bytes;
use memmap2::MmapMut;

/// A buffer of a fixed length, given back to the system as a whole.
pub(crate) struct Pages {
    pages: MmapMut,
    filled: usize,
}

impl Pages {
    /// An empty one, for so many bytes; an error when the system has none left.
    pub(crate) fn for_bytes(length: usize) -> io::Result<Self> {
        let pages = MmapMut::map_anon(length)?;
        Ok(Self { pages, filled: 0 })
    }

    /// All that is in a file.
    pub(crate) fn read(mut file: File) -> io::Result<Bytes> {
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if length == 0 {
            return Ok(Bytes::new());
        }
        let mut pages = Self::for_bytes(length)?;
        file.read_exact(&mut pages.pages)?;
        pages.filled = length;
        Ok(pages.freeze())
    }

    /// What was written so far, to be changed.
    pub(crate) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.pages[..self.filled]
    }

    /// What was written.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        &self.pages[..self.filled]
    }
}

impl Write for Pages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = (&mut self.pages[self.filled..]).write(bytes)?;
        self.filled += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts what is written to it.
#[derive(Default)]
pub(crate) struct Counted(pub(crate) usize);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_what_was_written_and_no_more() {
        let mut pages = Pages::for_bytes(5).unwrap();
        pages.write_all(b"abc").unwrap();
        pages.filled_mut()[0] = b'A';
        assert_eq!(pages.as_ref(), b"Abc");
        assert_eq!(
            pages.write_all(b"def").unwrap_err().kind(),
            io::ErrorKind::WriteZero
        );
        assert_eq!(pages.freeze(), &b"Abcde"[..]);
    }

    #[test]
    fn files_are_read_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for length in [0, 1, 100_000] {
            let content = vec![7; length];
            std::fs::write(&path, &content).unwrap();
            assert_eq!(Pages::read(File::open(&path).unwrap()).unwrap(), content);
        }
    }
}
