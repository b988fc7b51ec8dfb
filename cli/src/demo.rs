//! Three nodes that replicate to each other, and a row from each arriving everywhere.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::client::{Rows, literal};
use crate::configuration::ServerOptions;
use crate::deadline;
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::mesh::{self, MeshOptions};
use crate::run_folder::RunFolder;
use crate::server::{Server, Shutdown};
use crate::user::ServerUser;

const NAMES: [&str; 3] = ["n1", "n2", "n3"];
const DATABASE: &str = "demo";
/// Replication of a row takes milliseconds; a minute passes only where something is broken.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct Options {
    pub pg_config: Option<PathBuf>,
    pub port: u16,
    pub keep: bool,
    pub with_extension: bool,
}

/// Ok only if every row was seen on every node.
pub fn run(options: &Options) -> Result<()> {
    let user = ServerUser::find()?;
    let installation = Installation::find_default(options.pg_config.as_deref(), &user)?;
    // Declared before the servers, so that it is removed after they have ended.
    let mut folder = RunFolder::create(&user)?;

    println!(
        "Three nodes of {}, run by the user \"{}\" in {}:",
        installation.version,
        user.name(),
        folder.path().display()
    );
    let mut servers = start(options, &installation, &user, &folder)?;
    let nodes: Vec<&Server> = servers.iter().collect();
    for node in &nodes {
        println!("  {} on port {}", node.name(), node.port());
    }
    let mesh = MeshOptions { database: DATABASE.into(), ..MeshOptions::default() };
    if options.with_extension {
        for node in &nodes {
            register(node)?;
        }
        println!("Each has the extension spock_recovery and a name (spock.node_create).");
    }
    for node in &nodes {
        node.query(DATABASE, "CREATE TABLE guest (name text PRIMARY KEY, written_on text NOT NULL)")?;
    }
    mesh::wire(&nodes, &mesh)?;
    mesh::refresh(&nodes, &mesh, LIMIT)?;
    println!(
        "Each publishes all tables and subscribes to the two others ({} subscriptions).",
        nodes.len() * (nodes.len() - 1)
    );
    let elapsed = write_and_wait(&nodes)?;
    println!("Each wrote one row; all rows were on all nodes after {} ms:\n", elapsed.as_millis());
    print_table(&nodes)?;

    if options.keep {
        folder.keep()?;
        println!("\nThe servers go on running.");
        let psql = installation.bindir.join("psql");
        for node in &nodes {
            println!(
                "  connect to {}:  {} -h 127.0.0.1 -p {} -U postgres {DATABASE}",
                node.name(),
                psql.display(),
                node.port()
            );
        }
        let pids: Vec<String> = nodes.iter().filter_map(|node| node.pid()).map(|pid| pid.to_string()).collect();
        println!("  stop them:      kill -INT {} && sleep 2 && rm -rf {}", pids.join(" "), folder.path().display());
        servers.into_iter().for_each(Server::release);
    } else {
        for server in &mut servers {
            server.stop(Shutdown::Fast)?;
        }
        println!("\nAll servers are stopped. (`make demo KEEP=1` leaves them running.)");
    }
    Ok(())
}

fn start(options: &Options, installation: &Installation, user: &ServerUser, folder: &RunFolder) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    let mut port = options.port;
    for name in NAMES {
        port = free_port(port)?;
        let settings = ServerOptions {
            listens_on_localhost: true,
            preloads_extension: options.with_extension,
            detached: options.keep,
            ..ServerOptions::new(name, port)
        };
        servers.push(Server::create(installation, user, folder.path(), settings)?);
        port = port.saturating_add(1);
    }
    for server in &mut servers {
        server.launch()?;
    }
    for server in &mut servers {
        server.wait_ready()?;
        server.query("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
    }
    Ok(servers)
}

/// The first port at or after `port` that nobody listens on.
fn free_port(port: u16) -> Result<u16> {
    (port..=port.saturating_add(100)).find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok()).ok_or_else(|| {
        Error::Io { action: format!("find a free port after {port}"), source: std::io::ErrorKind::AddrInUse.into() }
    })
}

fn register(node: &Server) -> Result<()> {
    let dsn = literal(&node.dsn(DATABASE));
    node.query(DATABASE, "CREATE EXTENSION spock_recovery")?;
    node.query(DATABASE, &format!("SELECT spock.node_create({}, {dsn})", literal(node.name()))).map(drop)
}

/// Writes a row on each node; how long it took until every node had all of them.
fn write_and_wait(nodes: &[&Server]) -> Result<Duration> {
    let begun = Instant::now();
    for node in nodes {
        let name = literal(&format!("guest of {}", node.name()));
        node.query(DATABASE, &format!("INSERT INTO guest VALUES ({name}, {})", literal(node.name())))?;
    }
    for node in nodes {
        let mut last = 0;
        deadline::poll(LIMIT, || match guests(node) {
            Ok(rows) => {
                last = rows.len();
                (last == nodes.len()).then_some(Ok(()))
            }
            Err(error) => Some(Err(error)),
        })
        .unwrap_or_else(|| {
            let what = format!("all rows on \"{}\"", node.name());
            Err(Error::Timeout { what, waited: LIMIT, last: format!("{last} of {} rows", nodes.len()) })
        })?;
    }
    Ok(begun.elapsed())
}

fn guests(node: &Server) -> Result<Rows> {
    node.query(DATABASE, "SELECT written_on FROM guest ORDER BY written_on")
}

fn print_table(nodes: &[&Server]) -> Result<()> {
    print!("  {:<16}", "row written on");
    nodes.iter().for_each(|node| print!("{:>8}", node.name()));
    println!();
    for writer in nodes {
        print!("  {:<16}", writer.name());
        for reader in nodes {
            let has = guests(reader)?.into_iter().flatten().flatten().any(|written_on| written_on == writer.name());
            if !has {
                println!();
                return Err(Error::Verification(format!(
                    "the row of \"{}\" is not on \"{}\"",
                    writer.name(),
                    reader.name()
                )));
            }
            print!("{:>8}", "has it");
        }
        println!();
    }
    Ok(())
}
