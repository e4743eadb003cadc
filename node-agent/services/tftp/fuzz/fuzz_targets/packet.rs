//! Arbitrary bytes never panic the reader, and what it read can be written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tftp::packet::{Limits, Packet, negotiate};

fuzz_target!(|bytes: &[u8]| {
    match Packet::decode(bytes) {
        Ok(packet) => {
            let written = packet.encode();
            match &packet {
                // Its message may be cut.
                Packet::Error { .. } => assert!(Packet::decode(&written).is_ok()),
                packet => assert_eq!(Packet::decode(&written).as_ref(), Ok(packet)),
            }
            if let Packet::Request(request) = &packet {
                let limits = Limits { block_size_max: 1468, window_size_max: 64, file_len: 1 };
                let granted = negotiate(&request.options, &limits);
                assert!((8..=1468).contains(&granted.block_size) && (1..=64).contains(&granted.window_size));
                if let Some(oack) = granted.oack {
                    assert!(matches!(Packet::decode(&oack), Ok(Packet::Oack(_))));
                }
            }
        }
        Err(error) => {
            let _ = error.error_code();
        }
    }
});
