//! Arbitrary bytes never panic the reader, and what it read is written back as it was.

#![no_main]

use adc::message::{LineReader, Message, escape, unescape};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut reader = LineReader::new(4096);
    reader.push(bytes);
    while let Some(line) = reader.next_line() {
        let Ok(line) = line else { continue };
        if let Ok(message) = Message::parse(&line) {
            assert_eq!(Message::parse(message.raw().as_bytes()).as_ref(), Ok(&message));
            for value in message.params() {
                let plain = unescape(value);
                assert_eq!(unescape(&escape(&plain)), plain);
            }
        }
    }
});
