//! The clock that every machine of a process is driven by.

use sds_core::unit::Nanos;

/// Now, by CLOCK_BOOTTIME: it goes on while the machine sleeps and never goes back.
#[must_use]
pub fn now() -> Nanos {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Nanos::new(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    #[test]
    fn time_goes_on() {
        let before = super::now();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(super::now() >= before.plus(sds_core::unit::Nanos::from_millis(1)));
    }
}
