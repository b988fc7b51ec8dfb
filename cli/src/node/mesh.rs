//! The nodes of the mesh that answer.

use super::error::{Error, Result};
use crate::backup::conninfo::Conninfo;
use crate::backup::nodes::{self, Live, Member, Registered};

pub struct Mesh {
    pub database: String,
    /// The living node, and then the others.
    pub nodes: Vec<Live>,
    /// All that the living node knows, itself among them.
    pub members: Vec<Member>,
    /// Those that do not answer, and why.
    pub silent: Vec<(String, String)>,
}

impl Mesh {
    /// Asks the living node for the others, and meets each but those that are left out. The living node is reached as `from` says.
    pub fn meet(from: &Conninfo, dsn: &str, without: &[&str]) -> Result<Mesh> {
        let (database, members) = nodes::members(dsn)?;
        let (mut living, mut silent) = (Vec::new(), Vec::new());
        for member in members.iter().filter(|member| !without.contains(&member.name.as_str())) {
            let conninfo = if member.is_local { Some(from.clone()) } else { member.conninfo.clone() };
            let met = match conninfo {
                Some(conninfo) => Live::meet(&Registered { name: member.name.clone(), conninfo }),
                None => Err(crate::backup::Error::NoDsn { node: member.name.clone() }),
            };
            match met {
                Ok(live) if member.is_local => living.insert(0, live),
                Ok(live) => living.push(live),
                Err(error) if member.is_local => return Err(error.into()),
                Err(error) => silent.push((member.name.clone(), error.to_string())),
            }
        }
        match members.iter().any(|member| member.is_local) {
            true => Ok(Mesh { database, nodes: living, members, silent }),
            false => Err(crate::backup::Error::NotANode { database }.into()),
        }
    }

    /// The same, where every node must answer.
    pub fn meet_all(from: &Conninfo, dsn: &str, without: &[&str]) -> Result<Mesh> {
        let mesh = Mesh::meet(from, dsn, without)?;
        match mesh.silent.first() {
            Some((name, reason)) => Err(Error::Silent { name: name.clone(), reason: reason.clone() }),
            None => Ok(mesh),
        }
    }

    pub fn source(&mut self) -> Result<&mut Live> {
        let database = self.database.clone();
        Ok(self.nodes.first_mut().ok_or(crate::backup::Error::NotANode { database })?)
    }

    pub fn node(&mut self, name: &str) -> Result<&mut Live> {
        let found = self.nodes.iter_mut().find(|live| live.name() == name);
        found.ok_or_else(|| Error::Silent { name: name.to_owned(), reason: "the living node does not know it".into() })
    }
}
