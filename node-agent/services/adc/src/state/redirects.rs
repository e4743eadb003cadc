//! Users that are sent to another hub (ADC-EXT, RDEX).

use super::orders::check_text;
use super::{AdcState, Class, Departure, Limits, Order, OrderError, Ordered, folded};
use crate::message::{Redirects, are_addresses};

impl AdcState {
    /// Sends a user away.
    pub(super) fn redirect(
        &mut self,
        class: Class,
        nick: &str,
        departure: Departure,
        limits: &Limits,
    ) -> Ordered {
        let (address, reason, how) = match &departure {
            Departure::Redirected { address, reason, .. } => (address, reason, ""),
            Departure::RedirectedForGood { address, reason, .. } => (address, reason, " for good"),
            _ => return Err(OrderError::Invalid("that is no redirect")),
        };
        check_text(address)?;
        check_text(reason)?;
        let what = format!("redirected {nick}{how} to {address}: {reason}");
        let sid = self.below(class, nick, limits)?;
        self.depart(sid, departure);
        Ok(what)
    }

    /// Whether an order makes sense that is not in the log yet. What is in the log is carried out without this, so that
    /// members of different versions do the same.
    ///
    /// # Errors
    /// When it sends a user to what is no hub, or where its client cannot go.
    pub fn check_order(&self, order: &Order, limits: &Limits) -> Result<(), OrderError> {
        let (Order::Redirect { nick, address, .. } | Order::RedirectForGood { nick, address, .. }) = order
        else {
            return Ok(());
        };
        if !are_addresses(address) {
            return Err(OrderError::Invalid(
                "an address begins with adc://, adcs:// or dchub://; several are separated by commas",
            ));
        }
        match self.user_by_nick(&folded(nick, limits)) {
            Some(user) if !Redirects::of(&user.inf).follows(address) => Err(OrderError::Invalid(
                "the client of this user follows no such address",
            )),
            _ => Ok(()),
        }
    }
}
