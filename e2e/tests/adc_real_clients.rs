//! ncdc, eiskaltdcpp-daemon and a client with AirDC++'s rules on one hub.

use e2e::adc::meeting::Places;
use e2e::adc::{Meeting, Uhub};

/// What is asked of our hub is no more than what clients do on any: they do it on uhub, too.
#[test]
fn clients_meet_on_uhub() {
    let uhub = Uhub::start().unwrap();
    let mut meeting = Meeting::start(Places::all_at(&uhub.url())).unwrap();
    meeting.everything().unwrap();
}
