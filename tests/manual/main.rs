//! The documents agree with the sources: links, functions, settings, the words of closed lists, and messages. No server is needed;
//! what only a server knows (defaults of settings, columns of views) is compared in tests/reference.rs.
//! And the sources keep the sizes that CONTRIBUTING.md promises.

mod checks;
mod functions;
mod links;
mod messages;
mod pages;
mod sizes;
mod sources;
mod sqlstates;
mod words;
