//! `spockctl restore finish`.
use super::check::Options;
use super::error::Result;
use crate::screen::Screen;
pub fn run(_options: &Options, _screen: &Screen) -> Result<()> {
    Ok(())
}
