//! libpqwalreceiver, the only client that this library uses for other nodes (replication/walreceiver.h).
//!
//! Its functions are called through a table of function pointers, which pgrx does not guard. Each call here is in
//! guarded!, because otherwise an ERROR would jump over Rust frames. A connection is allocated in TopMemoryContext, so
//! that it survives the transaction in which it was opened.

use super::guarded;
use super::text::Text;
use crate::error::unpack_sqlstate;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};
use std::ffi::{CStr, CString};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// A connection to a peer. It is closed when it is dropped.
pub struct WalReceiverConnection {
    connection: *mut pg_sys::WalReceiverConn,
}

/// The answer of a peer to a command.
pub enum ConnectionAnswer {
    /// Rows, with all values in text form.
    Rows(Vec<Vec<Option<String>>>),
    /// A command without rows.
    Done,
    /// Rows of a COPY, which are received like a stream.
    CopyOut,
    /// An error, with libpq's message. If there is no SQLSTATE, the connection is lost.
    Error { sqlstate: Option<[u8; 5]>, message: String },
}

fn functions() -> &'static pg_sys::WalReceiverFunctionsType {
    // SAFETY: the library registers its table when it is loaded, and is never unloaded.
    unsafe {
        if pg_sys::WalReceiverFunctions.is_null() {
            pg_sys::load_file(c"libpqwalreceiver".as_ptr(), false);
        }
        &*pg_sys::WalReceiverFunctions
    }
}

/// Raises an ERROR (42601 and others) if the text is not a connection string. Its message may repeat a part of the
/// text.
pub fn check_conninfo(conninfo: &CStr, must_use_password: bool) {
    let Some(check) = functions().walrcv_check_conninfo else {
        return;
    };
    // SAFETY: a NUL-terminated string; the call is guarded.
    unsafe { guarded!(check(conninfo.as_ptr(), must_use_password)) };
}

impl WalReceiverConnection {
    /// Connects for SQL. Err is libpq's message. Waits without a limit, see [`super::timeout::with_limit`]. On 17 an
    /// ERROR during this call (a cancel, a time limit) leaks the connection until the process ends.
    pub fn connect(conninfo: &CStr, must_use_password: bool, application_name: &CStr) -> Result<Self, String> {
        Self::connect_as(conninfo, must_use_password, application_name, false)
    }

    /// Connects to a database for logical streaming. The connection can run SQL as well, until streaming starts.
    pub fn connect_for_streaming(
        conninfo: &CStr,
        must_use_password: bool,
        application_name: &CStr,
    ) -> Result<Self, String> {
        Self::connect_as(conninfo, must_use_password, application_name, true)
    }

    fn connect_as(
        conninfo: &CStr,
        must_use_password: bool,
        application_name: &CStr,
        is_replication: bool,
    ) -> Result<Self, String> {
        let Some(connect) = functions().walrcv_connect else {
            return Err("no libpqwalreceiver".to_owned());
        };
        let mut error: *mut core::ffi::c_char = std::ptr::null_mut();
        // SAFETY: strings outlive the call; the memory context is restored, after an ERROR by pgrx.
        let connection = unsafe {
            let previous = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let connection = PgTryBuilder::new(AssertUnwindSafe(|| {
                Ok(guarded!(connect(
                    conninfo.as_ptr(),
                    is_replication,
                    is_replication,
                    must_use_password,
                    application_name.as_ptr(),
                    &mut error,
                )))
            }))
            // The server has not asked for the password, and libpqwalreceiver has closed the connection.
            .catch_when(PgSqlErrorCode::ERRCODE_S_R_E_PROHIBITED_SQL_STATEMENT_ATTEMPTED, |cause| match cause {
                CaughtError::PostgresError(report) => Err(report.message().to_owned()),
                other => other.rethrow(),
            })
            .execute();
            pg_sys::MemoryContextSwitchTo(previous);
            connection?
        };
        if connection.is_null() {
            // SAFETY: set, in TopMemoryContext, when there is no connection.
            return Err(unsafe { take_string(error) }.unwrap_or_else(|| "no reason given".to_owned()));
        }
        Ok(WalReceiverConnection { connection })
    }

    /// Runs one command. `columns` is the number of columns that it returns. Needs a transaction.
    pub fn execute(&mut self, command: &CStr, columns: usize) -> ConnectionAnswer {
        let Some(execute) = functions().walrcv_exec else {
            return ConnectionAnswer::Error { sqlstate: None, message: "no libpqwalreceiver".to_owned() };
        };
        let types = vec![pg_sys::TEXTOID; columns];
        // SAFETY: the connection is open; the result is palloc'd in the current context, which ends with the
        // transaction.
        unsafe {
            let result =
                guarded!(execute(self.connection, command.as_ptr(), columns as core::ffi::c_int, types.as_ptr(),));
            match (*result).status {
                pg_sys::WalRcvExecStatus::WALRCV_OK_TUPLES => ConnectionAnswer::Rows(read_rows(result, columns)),
                pg_sys::WalRcvExecStatus::WALRCV_OK_COMMAND => ConnectionAnswer::Done,
                pg_sys::WalRcvExecStatus::WALRCV_OK_COPY_OUT => ConnectionAnswer::CopyOut,
                pg_sys::WalRcvExecStatus::WALRCV_ERROR => ConnectionAnswer::Error {
                    sqlstate: ((*result).sqlstate != 0).then(|| unpack_sqlstate((*result).sqlstate)),
                    message: copy_string((*result).err).unwrap_or_default(),
                },
                _ => ConnectionAnswer::Error { sqlstate: None, message: "unexpected answer".to_owned() },
            }
        }
    }
}

/// What was received from a stream.
pub enum Received<'a> {
    Message(&'a [u8]),
    /// Nothing at present; the socket on which to wait.
    Nothing(pg_sys::pgsocket),
    /// The sender has ended the stream.
    End,
    /// The sender has ended the stream with an ERROR, or the connection is lost.
    Failed(StreamFailure),
}

/// How a stream has failed, with libpq's message.
pub struct StreamFailure {
    /// Whether the connection is lost. Otherwise the sender has reported an ERROR.
    pub is_lost: bool,
    pub message: String,
}

/// Runs a call on a stream, and returns the ERROR that it raises if the sender has raised one or the connection is
/// lost. Such an ERROR leaves nothing behind except the connection, which is no longer usable.
fn of_stream<T>(call: impl FnOnce() -> T) -> Result<T, StreamFailure> {
    use PgSqlErrorCode::{ERRCODE_CONNECTION_FAILURE as LOST, ERRCODE_PROTOCOL_VIOLATION as SAID};
    let failed = |is_lost| {
        move |cause: CaughtError| match cause {
            CaughtError::PostgresError(report) => Err(StreamFailure { is_lost, message: report.message().to_owned() }),
            other => other.rethrow(),
        }
    };
    PgTryBuilder::new(AssertUnwindSafe(|| Ok(call())))
        .catch_when(LOST, failed(true))
        .catch_when(SAID, failed(false))
        .execute()
}

impl WalReceiverConnection {
    /// Starts streaming from a logical slot at its confirmed position. Fails if the sender refuses.
    pub fn start_streaming(&mut self, slot: &CStr) -> Result<(), StreamFailure> {
        let Some(start) = functions().walrcv_startstreaming else { return Ok(()) };
        let mut options = pg_sys::WalRcvStreamOptions {
            logical: true,
            slotname: slot.as_ptr().cast_mut(),
            startpoint: 0,
            ..Default::default()
        };
        // pgoutput would need these options. This library's plugin reads its session's settings instead.
        options.proto.logical.proto_version = 1;
        // SAFETY: the connection is open; strings outlive the call; no publication names, no streaming, no origin.
        of_stream(|| unsafe { guarded!(start(self.connection, &options)) }).map(|_| ())
    }

    /// The next message, valid until the next call.
    pub fn receive(&mut self) -> Received<'_> {
        let Some(receive) = functions().walrcv_receive else { return Received::End };
        let mut buffer: *mut core::ffi::c_char = std::ptr::null_mut();
        let mut socket: pg_sys::pgsocket = pg_sys::PGINVALID_SOCKET;
        // SAFETY: streaming was started; libpqwalreceiver owns the buffer until the next call.
        unsafe {
            let length = match of_stream(|| guarded!(receive(self.connection, &mut buffer, &mut socket))) {
                Ok(length) => length,
                Err(failure) => return Received::Failed(failure),
            };
            match usize::try_from(length) {
                Err(_) => Received::End,
                Ok(0) => Received::Nothing(socket),
                Ok(length) => Received::Message(std::slice::from_raw_parts(buffer.cast(), length)),
            }
        }
    }

    /// Sends a message to the sender.
    pub fn send(&mut self, message: &[u8]) {
        let Some(send) = functions().walrcv_send else { return };
        // SAFETY: streaming was started; the bytes outlive the call.
        unsafe { guarded!(send(self.connection, message.as_ptr().cast(), message.len() as core::ffi::c_int)) };
    }
}

impl Drop for WalReceiverConnection {
    fn drop(&mut self) {
        if let Some(disconnect) = functions().walrcv_disconnect {
            // SAFETY: opened in `connect`, not closed since; closing a libpq connection raises nothing.
            unsafe { guarded!(disconnect(self.connection)) };
        }
    }
}

/// The rows of a result, freed with it.
unsafe fn read_rows(result: *mut pg_sys::WalRcvExecResult, columns: usize) -> Vec<Vec<Option<String>>> {
    let mut rows = Vec::new();
    // SAFETY: a result with tuples has a tuple store and a descriptor of `columns` text columns.
    unsafe {
        let slot = pg_sys::MakeSingleTupleTableSlot((*result).tupledesc, &pg_sys::TTSOpsMinimalTuple);
        while pg_sys::tuplestore_gettupleslot((*result).tuplestore, true, false, slot) {
            pg_sys::slot_getsomeattrs_int(slot, columns as core::ffi::c_int);
            rows.push(
                (0..columns)
                    .map(|column| {
                        let is_null = *(*slot).tts_isnull.add(column);
                        <Text as pgrx::FromDatum>::from_datum(*(*slot).tts_values.add(column), is_null)
                            .map(|text| text.to_utf8())
                    })
                    .collect(),
            );
        }
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::tuplestore_end((*result).tuplestore);
        pg_sys::FreeTupleDesc((*result).tupledesc);
    }
    rows
}

unsafe fn copy_string(text: *const core::ffi::c_char) -> Option<String> {
    // SAFETY: null or NUL-terminated.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

unsafe fn take_string(text: *mut core::ffi::c_char) -> Option<String> {
    // SAFETY: null, or palloc'd and owned by us.
    unsafe {
        let copy = copy_string(text);
        if !text.is_null() {
            pg_sys::pfree(text.cast());
        }
        copy
    }
}

/// wal_receiver_timeout, after which a silent sender is given up; None: never.
pub fn receiver_timeout() -> Option<Duration> {
    // SAFETY: a setting of this process, in milliseconds.
    let milliseconds = unsafe { pg_sys::wal_receiver_timeout };
    (milliseconds > 0).then(|| Duration::from_millis(u64::from(milliseconds.unsigned_abs())))
}

/// wal_receiver_status_interval: how often the sender gets a status report; None: only when it asks.
pub fn status_interval() -> Option<Duration> {
    // SAFETY: a setting of this process, in seconds.
    let seconds = unsafe { pg_sys::wal_receiver_status_interval };
    (seconds > 0).then(|| Duration::from_secs(u64::from(seconds.unsigned_abs())))
}

/// The name of this database's encoding, for client_encoding on a peer.
pub fn database_encoding() -> CString {
    // SAFETY: a static name.
    unsafe { CStr::from_ptr(pg_sys::GetDatabaseEncodingName()) }.to_owned()
}
