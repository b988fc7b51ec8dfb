//! Places at which a test makes a server crash, fail or wait. Without the cargo feature `failpoints` the functions are
//! empty.
//!
//! A failpoint is armed by the file `spock_failpoints/<name>` in the data directory, which contains `crash`, `error` or
//! `wait`. When it is reached, it leaves the file `<name>.hit` behind. It is disarmed before it crashes or fails, so
//! that the restarted server does not do so again; a wait ends when the file is removed. Files are used instead of
//! settings, because they survive a crash and need no session.

pub mod names;

/// Does what the armed file of this name says; nothing if there is none.
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) {
    use crate::pg::{interrupts, latch};
    use std::path::Path;
    use std::time::Duration;

    // The working directory of every server process is the data directory.
    let armed = Path::new("spock_failpoints").join(name);
    let Ok(action) = std::fs::read_to_string(&armed) else {
        return;
    };
    let mut hit = armed.clone().into_os_string();
    hit.push(".hit");
    if let Err(error) = std::fs::write(hit, "") {
        pgrx::warning!("failpoint \"{name}\" cannot leave its mark: {error}");
    }
    match action.trim() {
        "crash" => {
            let _ = std::fs::remove_file(&armed);
            interrupts::kill_this_process();
        }
        "wait" => {
            while armed.exists() {
                interrupts::check();
                latch::wait(Some(Duration::from_millis(20)), latch::WaitEvent::Failpoint);
            }
        }
        _ => {
            let _ = std::fs::remove_file(&armed);
            pgrx::error!("failpoint \"{name}\" was armed");
        }
    }
}

#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_name: &str) {}

/// Loops without waiting as long as the file of this name exists, and checks for interrupts as every loop in this
/// library must.
#[cfg(feature = "failpoints")]
pub fn spin_while_armed(name: &str) {
    while std::path::Path::new("spock_failpoints").join(name).exists() {
        crate::pg::interrupts::check();
    }
}

#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn spin_while_armed(_name: &str) {}

/// Whether the failpoint is armed, for code that does something wrong then. If the file contains `error`, once only.
#[cfg(feature = "failpoints")]
pub fn is_armed(name: &str) -> bool {
    let armed = std::path::Path::new("spock_failpoints").join(name);
    let Ok(action) = std::fs::read_to_string(&armed) else { return false };
    let mut hit = armed.clone().into_os_string();
    hit.push(".hit");
    let _ = std::fs::write(hit, "");
    if action.trim() == "error" {
        let _ = std::fs::remove_file(&armed);
    }
    true
}

#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn is_armed(_name: &str) -> bool {
    false
}
