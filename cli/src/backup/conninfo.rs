//! Connection strings as libpq takes them, in both forms, so that a password can be taken out, and that the client library here is
//! not given what it does not know (pure, but for the defaults of the environment).

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postgres::Config;
use spock_recovery_cluster::program;

use super::error::{Error, Result};

/// What the client library here knows as well.
const SHARED: [&str; 11] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "options",
    "connect_timeout",
    "target_session_attrs",
    "keepalives",
    "keepalives_idle",
];

/// Where distributions and core itself put the socket.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Keywords with their values; Debug and Display leave the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct Conninfo(Vec<(String, String)>);

impl Conninfo {
    pub fn parse(text: &str) -> Result<Conninfo> {
        let schemes = ["postgresql://", "postgres://"];
        let parsed = match schemes.iter().find_map(|scheme| text.strip_prefix(scheme)) {
            Some(rest) => parse_uri(rest),
            None => parse_pairs(text),
        };
        parsed.map(Conninfo).ok_or(Error::Conninfo)
    }

    pub fn get(&self, keyword: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(name, value)| name == keyword && !value.is_empty());
        found.next_back().map(|(_, value)| value.as_str())
    }

    /// Its own, else PGPASSWORD, else what the password file has for it.
    pub fn password(&self) -> Option<String> {
        let own = self.get("password").map(str::to_owned);
        own.or_else(|| env::var("PGPASSWORD").ok()).or_else(|| {
            let file = self.get("passfile").map(PathBuf::from).or_else(|| env::var_os("PGPASSFILE").map(Into::into));
            let file = file.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".pgpass")))?;
            let address = ["host", "port", "dbname", "user"].map(|keyword| self.get(keyword));
            password_in(&fs::read_to_string(file).ok()?, address)
        })
    }

    pub fn without_password(&self) -> Conninfo {
        Conninfo(self.0.iter().filter(|(name, _)| name != "password").cloned().collect())
    }

    /// With what another one has for a keyword that this one lacks.
    pub fn or(mut self, keyword: &str, other: &Conninfo) -> Conninfo {
        if let (None, Some(value)) = (self.get(keyword), other.get(keyword)) {
            self.0.push((keyword.to_owned(), value.to_owned()));
        }
        self
    }

    /// With another value for a keyword.
    pub fn with(mut self, keyword: &str, value: &str) -> Conninfo {
        self.0.retain(|(name, _)| name != keyword);
        self.0.push((keyword.to_owned(), value.to_owned()));
        self
    }

    /// With its password: what a server is told, and nobody is shown.
    pub fn secret(&self) -> String {
        text(self.0.iter())
    }

    /// For the client library here. It speaks no TLS.
    pub fn config(&self) -> Result<Config> {
        if matches!(self.get("sslmode"), Some("require" | "verify-ca" | "verify-full")) {
            return Err(Error::Tls { conninfo: self.to_string() });
        }
        let shared = self.0.iter().filter(|(name, value)| SHARED.contains(&name.as_str()) && !value.is_empty());
        let mut config: Config = text(shared).parse().map_err(|_| Error::Conninfo)?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host(&default_host(self.get("port").unwrap_or("5432")));
        }
        if let Some(password) = self.password() {
            config.password(password);
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(10));
        }
        Ok(config.application_name(program::name()).clone())
    }
}

impl fmt::Display for Conninfo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&text(self.0.iter().filter(|(name, _)| name != "password")))
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Conninfo({self})")
    }
}

fn text<'a>(pairs: impl Iterator<Item = &'a (String, String)>) -> String {
    let quoted = pairs.map(|(name, value)| {
        let plain =
            !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-:,@+".contains(&byte));
        match plain {
            true => format!("{name}={value}"),
            false => format!("{name}='{}'", value.replace('\\', r"\\").replace('\'', r"\'")),
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn default_host(port: &str) -> String {
    let socket = format!(".s.PGSQL.{port}");
    let found = SOCKET_FOLDERS.iter().find(|folder| Path::new(folder).join(&socket).exists());
    env::var("PGHOST").ok().or_else(|| found.map(|&folder| folder.to_owned())).unwrap_or_else(|| "localhost".into())
}

/// `keyword = value`, values quoted or with backslashes, by conninfo_parse (fe-connect.c).
fn parse_pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        let mut value = String::new();
        let after = after.trim_start();
        let quoted = after.starts_with('\'');
        let mut characters = after.char_indices().skip(usize::from(quoted));
        let end = loop {
            match characters.next() {
                None if quoted => return None,
                None => break after.len(),
                Some((_, '\\')) => value.push(characters.next()?.1),
                Some((at, '\'')) if quoted => break at + 1,
                Some((at, character)) if !quoted && character.is_whitespace() => break at,
                Some((_, character)) => value.push(character),
            }
        };
        pairs.push((name.to_owned(), value));
        rest = after[end..].trim_start();
    }
    Some(pairs)
}

/// `[user[:password]@][host[:port][,…]][/dbname][?keyword=value[&…]]`
fn parse_uri(rest: &str) -> Option<Vec<(String, String)>> {
    let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (account, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = account.split_once(':').unwrap_or((account, ""));
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
            Some((name, port)) => (name, port.strip_prefix(':').unwrap_or("")),
            None => host.split_once(':').unwrap_or((host, "")),
        };
        names.push(decode(name)?);
        ports.push(decode(port)?);
    }
    let mut pairs = vec![
        ("user".to_owned(), decode(user)?),
        ("password".to_owned(), decode(password)?),
        ("host".to_owned(), names.join(",")),
        ("port".to_owned(), ports.join(",")),
        ("dbname".to_owned(), decode(database)?),
    ];
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=')?;
        pairs.push((decode(name)?, decode(value)?));
    }
    pairs.retain(|(_, value)| !value.is_empty());
    Some(pairs)
}

/// `%2F` and its like.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        (rest, bytes) = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                let byte = u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?;
                (after, [bytes, vec![byte]].concat())
            }
            (b'%', _) => return None,
            _ => (after, [bytes, vec![*first]].concat()),
        };
    }
    String::from_utf8(bytes).ok()
}

/// The first line of a password file that fits host, port, database and user, by passwordFromFile (fe-connect.c).
fn password_in(file: &str, address: [Option<&str>; 4]) -> Option<String> {
    let socket = address[0].is_none_or(|host| host.starts_with('/'));
    file.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = vec![String::new()];
        let mut characters = line.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => fields.last_mut()?.push(characters.next()?),
                ':' if fields.len() < 5 => fields.push(String::new()),
                other => fields.last_mut()?.push(other),
            }
        }
        let fits = fields.len() == 5
            && address.iter().zip(&fields).enumerate().all(|(place, (known, field))| {
                field == "*"
                    || known.is_some_and(|known| known == field)
                    || (place == 0 && socket && field == "localhost")
                    || (place == 1 && known.is_none() && field == "5432")
            });
        fits.then(|| fields.pop()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::{Conninfo, password_in};

    fn parsed(text: &str) -> Conninfo {
        Conninfo::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn both_forms_say_the_same() {
        let pairs = parsed(r"host = /tmp/a\ b port=5432 dbname='it\'s'");
        assert_eq!(pairs.get("host"), Some("/tmp/a b"));
        let uri = parsed("postgresql://me:p%40ss@db:5433/app?sslmode=disable&application_name=x");
        assert_eq!(
            uri,
            parsed("user=me password=p@ss host=db port=5433 dbname=app sslmode=disable application_name=x")
        );
        assert_eq!(parsed("postgres://[::1]:7/").get("host"), Some("::1"));
        assert_eq!(parsed("postgres:///x?host=%2Ftmp").get("host"), Some("/tmp"));
        for broken in ["nonsense", "a b=c", "host='x", "postgres://h/%2"] {
            assert!(Conninfo::parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let conninfo = parsed(r"host=h password='a\'b' user=u options='-c x=1'");
        assert_eq!(conninfo.password().as_deref(), Some("a'b"));
        assert_eq!(conninfo.to_string(), "host=h user=u options='-c x=1'");
        assert_eq!(format!("{conninfo:?}"), "Conninfo(host=h user=u options='-c x=1')");
        assert_eq!(parsed(&conninfo.to_string()), conninfo.without_password());
        assert_eq!(parsed(&conninfo.secret()), conninfo);
        assert_eq!(conninfo.with("user", "v").get("user"), Some("v"));
    }

    #[test]
    fn what_only_libpq_knows_is_left_out_for_the_client() {
        let config = parsed("host=h user=u passfile=/x sslrootcert=/y gssencmode=disable sslmode=prefer").config();
        assert!(config.is_ok_and(|config| config.get_user() == Some("u")));
        assert!(parsed("host=h sslmode=require").config().is_err());
    }

    #[test]
    fn a_password_file_is_read_as_libpq_reads_it() {
        let file = "# x\ndb:5433:*:me:one\n*:*:app:me:t\\:wo:x\nlocalhost:5432:d:s:three\n";
        let find = |host, port, dbname, user| password_in(file, [host, port, Some(dbname), Some(user)]);
        assert_eq!(find(Some("db"), Some("5433"), "other", "me").as_deref(), Some("one"));
        assert_eq!(find(Some("db"), Some("1"), "app", "me").as_deref(), Some("t:wo:x"));
        assert_eq!(find(Some("/tmp"), None, "d", "s").as_deref(), Some("three"));
        assert_eq!(find(Some("db"), Some("1"), "x", "y"), None);
    }
}
