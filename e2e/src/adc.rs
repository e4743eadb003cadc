//! ADC hubs under test: three kinds of clients, uhub as their other hub, and a swarm of thousands of users.
//!
//! [`Ncdc`] and [`Eiskalt`] are stock programs as people run them, without a screen. [`Air`] is our own client: it greets,
//! waits and counts as AirDC++ does, which no Debian package holds. [`meeting`] is what the three do together on any hub.
//! [`swarm`] drives thousands of users in one thread and looks no deeper into their lines than it must.

pub mod air;
pub mod churn;
pub mod contest;
pub mod eiskalt;
pub mod identity;
pub mod line;
pub mod load;
pub mod meeting;
pub mod ncdc;
pub mod swarm;
pub mod tls;
pub mod uhub;

pub use air::Air;
pub use eiskalt::Eiskalt;
pub use identity::Identity;
pub use meeting::Meeting;
pub use ncdc::Ncdc;
pub use swarm::Swarm;
pub use uhub::Uhub;
