//! What is compared of a table: its replicated columns, its key, and whether the two nodes order keys alike.

use super::question::{Answer, Asked, KeyText, Question, Shape};
use super::side::Side;
use crate::refused::Refused;
use crate::remote::error::RemoteError;

/// A table that is to be compared, and the publications by which each of the two nodes publishes it to the other; none
/// if it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'r> {
    pub schema: &'r str,
    pub name: &'r str,
    pub published_here: &'r [String],
    pub published_there: &'r [String],
    /// Whether it may be incomplete on this node: it is to be brought level with the other one.
    pub may_be_incomplete_here: bool,
}

/// Why a table cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incomparable {
    #[error("node \"{node}\" has no primary key or replica identity index for it")]
    NoKey { node: String },
    #[error("its key has other columns on node \"{node}\"")]
    OtherKey { node: String },
    #[error("column \"{column}\" of its key is not replicated")]
    KeyNotReplicated { column: String },
    #[error("node \"{node}\" has no column \"{column}\"")]
    NoColumn { node: String, column: String },
    #[error("the two nodes order its keys differently")]
    OtherOrder,
    #[error("a copy of it on node \"{node}\" is not complete")]
    Incomplete { node: String },
    #[error("{0}")]
    Refused(Refused),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub schema: String,
    pub name: String,
    /// The columns that are compared, in the order in which both nodes hash them.
    pub columns: Vec<String>,
    /// The positions of the key's columns in `columns`, in the order of the key.
    pub key: Vec<usize>,
    /// The number of rows, as the planner estimates it, on the node that has more.
    pub rows: u64,
    /// Whether both nodes are known to order keys alike.
    pub(super) orders_alike: bool,
    /// Whether a key that one node alone seems to have must be looked up: the order is not known to be the same, or a
    /// row filter hides the other node's row.
    pub(super) must_look_up: bool,
    published_here: Vec<String>,
    published_there: Vec<String>,
}

/// Which of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Here,
    There,
}

impl Table {
    /// Learns from both nodes what is to be compared.
    ///
    /// # Errors
    /// A node cannot be asked. The inner Err says why the table cannot be compared.
    pub fn learn(
        request: &Request<'_>,
        here: &mut dyn Side,
        there: &mut dyn Side,
    ) -> Result<Result<Table, Incomparable>, RemoteError> {
        let ours = match shape_of(request, request.published_here, here)? {
            Ok(shape) => shape,
            Err(refused) => return Ok(Err(Incomparable::Refused(refused))),
        };
        let theirs = match shape_of(request, request.published_there, there)? {
            Ok(shape) => shape,
            Err(refused) => return Ok(Err(Incomparable::Refused(refused))),
        };
        let is_here = ours.is_incomplete && !request.may_be_incomplete_here;
        if is_here || theirs.is_incomplete {
            let node = if is_here { here.node() } else { there.node() }.to_owned();
            return Ok(Err(Incomparable::Incomplete { node }));
        }
        Ok(Table::of_shapes(request, [(here.node(), ours), (there.node(), theirs)]))
    }

    fn of_shapes(request: &Request<'_>, nodes: [(&str, Shape); 2]) -> Result<Table, Incomparable> {
        let columns = columns_of(&nodes)?;
        let [(our_node, ours), (their_node, theirs)] = nodes;
        let key_on =
            |node: &str, shape: &Shape| shape.key.clone().ok_or_else(|| Incomparable::NoKey { node: node.to_owned() });
        let (mut our_key, mut their_key) = (key_on(our_node, &ours)?, key_on(their_node, &theirs)?);
        let place = |column: &String| {
            let place = columns.iter().position(|known| known == column);
            place.ok_or_else(|| Incomparable::KeyNotReplicated { column: column.clone() })
        };
        let key: Vec<usize> = our_key.iter().map(place).collect::<Result<_, _>>()?;
        let is_in_the_same_order = our_key == their_key;
        our_key.sort_unstable();
        their_key.sort_unstable();
        if our_key != their_key {
            return Err(Incomparable::OtherKey { node: their_node.to_owned() });
        }
        let orders_alike = is_in_the_same_order && ours.order.is_some() && ours.order == theirs.order;
        let publications =
            |shape: &Shape, names: &[String]| if shape.is_filtered { names.to_vec() } else { Vec::new() };
        Ok(Table {
            schema: request.schema.to_owned(),
            name: request.name.to_owned(),
            columns,
            key,
            rows: ours.rows.max(theirs.rows),
            orders_alike,
            must_look_up: !orders_alike || ours.is_filtered || theirs.is_filtered,
            published_here: publications(&ours, request.published_here),
            published_there: publications(&theirs, request.published_there),
        })
    }

    pub(super) fn question(&self, node: Which, seed: i64, asked: Asked) -> Question {
        let publications = match node {
            Which::Here => &self.published_here,
            Which::There => &self.published_there,
        };
        Question {
            schema: self.schema.clone(),
            name: self.name.clone(),
            columns: self.columns.clone(),
            key: self.key.clone(),
            publications: publications.clone(),
            seed,
            asked,
        }
    }

    pub(super) fn is_key(&self, key: &KeyText) -> bool {
        key.len() == self.key.len()
    }
}

fn shape_of(
    request: &Request<'_>,
    publications: &[String],
    side: &mut dyn Side,
) -> Result<Result<Shape, Refused>, RemoteError> {
    let question = Question {
        schema: request.schema.to_owned(),
        name: request.name.to_owned(),
        columns: Vec::new(),
        key: Vec::new(),
        publications: publications.to_vec(),
        seed: 0,
        asked: Asked::Shape,
    };
    match side.ask(&question)? {
        Ok(Answer::Shape(shape)) => Ok(Ok(*shape)),
        Ok(_) => Err(RemoteError::Unexpected("hashes instead of the shape of a table".to_owned())),
        Err(refused) => Ok(Err(refused)),
    }
}

/// The columns that are compared: those that each of the nodes that publish the table sends. If neither publishes it,
/// those that both have and that are not generated.
fn columns_of(nodes: &[(&str, Shape); 2]) -> Result<Vec<String>, Incomparable> {
    let [(_, ours), (_, theirs)] = nodes;
    let is_published = ours.is_published || theirs.is_published;
    let mut columns =
        if ours.is_published || !is_published { ours.published.clone() } else { theirs.published.clone() };
    if theirs.is_published || !is_published {
        columns.retain(|column| theirs.published.contains(column));
    }
    for (node, shape) in nodes {
        if let Some(column) = columns.iter().find(|column| !shape.columns.contains(column)) {
            return Err(Incomparable::NoColumn { node: (*node).to_owned(), column: column.clone() });
        }
    }
    Ok(columns)
}
