//! However odd a client's input, the reply is the one that Redis itself gives.
#![allow(missing_docs)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use levee_harness::redis::Redis;
use levee_harness::sidecar::Sidecar;
use levee_harness::wait::GENEROUS;

/// What comes back up to a marker that is sent behind the bytes, and whether the connection was closed before.
fn said(address: SocketAddr, bytes: &[u8]) -> (String, bool) {
    const MARKER: &str = "$6\r\nmarker\r\n";
    let mut stream = TcpStream::connect(address).expect("connect");
    stream
        .set_read_timeout(Some(GENEROUS))
        .expect("set an option of a socket");
    let mut all = bytes.to_vec();
    all.extend_from_slice(b"*2\r\n$4\r\nECHO\r\n$6\r\nmarker\r\n");
    // The connection may be closed before all is read.
    let _ = stream.write_all(&all);
    let mut said = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if said.ends_with(MARKER.as_bytes()) {
            return (without_id(&said), false);
        }
        match stream.read(&mut chunk) {
            Ok(read @ 1..) => said.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!(
                    "no answer of {address} to {} but {}",
                    bytes.escape_ascii(),
                    said.escape_ascii()
                )
            }
            _ => return (without_id(&said), true),
        }
    }
}

/// A monitor hears of Levee's own checks, now and then.
fn is_monitored(line: &str) -> bool {
    let is_timed = line.starts_with('+') && line[1..].starts_with(|c: char| c.is_ascii_digit());
    is_timed && line.contains("] \"")
}

/// HELLO's reply has the connection's id, which differs each time.
fn without_id(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines = text.split_inclusive("\r\n");
    let text: String = lines.filter(|line| !is_monitored(line)).collect();
    let mut parts = text.split("$2\r\nid\r\n:");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    kept
}

/// Odd lines, and lines that change the connection's state.
const LINES: &[&str] = &[
    "PING\r\n",
    "PING\n",
    "  ping   hello  \r\n",
    "\r\n\r\nPING\r\n",
    "ECHO \"a\\x41\\n\\\"b\" \r\n",
    "ECHO 'it\\'s'\r\n",
    "ECHO \"\"\r\n",
    "ECHO \"open\r\n",
    "ECHO 'a'b\r\n",
    "*0\r\n",
    "*-1\r\n",
    "*-5\r\n",
    "*1\r\n$0\r\n\r\n",
    "*2\r\n$0\r\n\r\n$1\r\na\r\n",
    "*1\r\n$-1\r\n",
    "*1\r\n$x\r\n",
    "*x\r\n",
    "*99999999999999999999\r\n",
    "*1\r\n:1\r\n",
    "*2\r\n$4\r\nECHO\r\n+x\r\n",
    "*1\r\n$01\r\na\r\n",
    "*1\r\n$+1\r\na\r\n",
    "*1\r\n$-0\r\n",
    "*1\r\n$\r\n",
    "*1\r\n$536870913\r\n",
    "*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$2000000000\r\n",
    "*1\r\n$9223372036854775807\r\n",
    "*01\r\n$4\r\nPING\r\n",
    "*-0\r\n",
    "* 1\r\n",
    "*\r\n",
    "*1048577\r\n",
    "*2147483648\r\n",
    "*1\n$4\nPING\n",
    "*1\rx$4\rxPING\r\n",
    "*1\r\n\r\n",
    "*1\r\n\x01\r\n",
    "*1\r\nPING\r\n",
    "*2\r\n$4\r\nECHO\r\n$5\r\na\r\nbc\r\n",
    "*1\r\n$4\r\nPINGxx",
    "*1\r\n$7\r\nUNKNOWN\r\n",
    "UNKNOWN a b c\r\n",
    "GET\r\n",
    "SET a\r\n",
    "AUTH wrong\r\n",
    "AUTH default wrong\r\n",
    "HELLO 1\r\n",
    "HELLO 4\r\n",
    "HELLO x\r\n",
    "HELLO 3 AUTH default wrong\r\n",
    "SELECT 99\r\n",
    "SELECT x\r\n",
    "SELECT 1\r\nSET a 1\r\nSELECT 0\r\nGET a\r\n",
    "MULTI\r\nMULTI\r\nEXEC\r\n",
    "MULTI\r\nNONSENSE\r\nEXEC\r\n",
    "MULTI\r\nGET\r\nSET a 1\r\nEXEC\r\n",
    "MULTI\r\nWATCH a\r\nDISCARD\r\n",
    "MULTI\r\nSET a x\r\nINCR a\r\nEXEC\r\n",
    "MULTI\r\nBLPOP none 0\r\nEXEC\r\n",
    "MULTI\r\nSUBSCRIBE a\r\nPING\r\nEXEC\r\nUNSUBSCRIBE\r\n",
    "MULTI x\r\nDISCARD\r\n",
    "EXEC\r\n",
    "DISCARD\r\n",
    "WATCH\r\n",
    "WATCH a\r\nSET a 2\r\nMULTI\r\nGET a\r\nEXEC\r\n",
    "UNSUBSCRIBE\r\n",
    "UNSUBSCRIBE a b\r\nPING\r\n",
    "SUBSCRIBE a b c\r\nPING\r\nUNSUBSCRIBE\r\nGET a\r\n",
    "SUBSCRIBE a\r\nGET a\r\nPING x\r\nUNSUBSCRIBE a\r\n",
    "PSUBSCRIBE a* b*\r\nPUNSUBSCRIBE\r\nSSUBSCRIBE s\r\nSUNSUBSCRIBE\r\n",
    "HELLO 3\r\nRESET\r\nGET none\r\n",
    "RESET\r\n",
    "BLPOP none x\r\n",
    "BLPOP none -1\r\n",
    "BLPOP none 0.01\r\n",
    "BLMPOP 0.01 1 none LEFT\r\n",
    "BLMOVE none other LEFT LEFT 0.01\r\n",
    "XADD s 1-1 f v\r\nXREAD BLOCK 10 STREAMS s 0\r\nXREAD BLOCK 10 STREAMS s $\r\nDEL s\r\n",
    "WAIT 1 10\r\n",
    "QUIT\r\n",
    "QUIT\r\nPING\r\n",
    "QUIT now\r\n",
    "CLIENT SETNAME a\\nb\r\n",
    "CLIENT SETNAME ok\r\nCLIENT GETNAME\r\nCLIENT SETNAME \"\"\r\nCLIENT GETNAME\r\n",
    "CLIENT REPLY ON\r\n",
    "CLIENT REPLY OFF\r\nPING\r\nCLIENT REPLY ON\r\n",
    "CLIENT REPLY OFF\r\nSET a 1\r\nNONSENSE\r\nCLIENT REPLY ON\r\nGET a\r\n",
    "CLIENT REPLY OFF\r\nSELECT 1\r\nSET a 1\r\nRESET\r\nGET a\r\n",
    "CLIENT REPLY OFF\r\nCLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\nPING\r\n",
    "CLIENT REPLY OFF\r\nSUBSCRIBE a\r\nUNSUBSCRIBE\r\nCLIENT REPLY ON\r\n",
    "CLIENT REPLY OFF\r\nMULTI\r\nPING\r\nCLIENT REPLY ON\r\nPING\r\nEXEC\r\n",
    "CLIENT REPLY OFF x\r\nPING\r\n",
    "CLIENT REPLY SKIP\r\nPING\r\n",
    "CLIENT REPLY SKIP\r\nSET a 1\r\nGET a\r\n",
    "CLIENT REPLY SKIP\r\nNONSENSE\r\nPING\r\n",
    "CLIENT REPLY SKIP\r\nCLIENT REPLY SKIP\r\nPING\r\nPING\r\n",
    "CLIENT REPLY SKIP\r\nCLIENT REPLY OFF\r\nPING\r\nCLIENT REPLY ON\r\n",
    "CLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\nPING\r\n",
    "CLIENT REPLY SKIP\r\nSELECT 1\r\nSET a 1\r\nSELECT 0\r\nGET a\r\n",
    "CLIENT REPLY SKIP\r\nMULTI\r\nPING\r\nEXEC\r\n",
    "CLIENT REPLY SKIP\r\nRESET\r\nPING\r\n",
    "CLIENT REPLY SKIP x\r\nPING\r\n",
    "MULTI\r\nCLIENT REPLY OFF\r\nPING\r\nEXEC\r\nRESET\r\nGET a\r\n",
    "MULTI\r\nCLIENT REPLY SKIP\r\nPING\r\nEXEC\r\nPING\r\n",
    "MULTI\r\nMONITOR\r\nPING\r\nEXEC\r\n",
    "MULTI\r\nSYNC\r\nPSYNC ? -1\r\nEXEC\r\n",
    "MONITOR\r\nRESET\r\nGET a\r\n",
    "MONITOR x\r\nPING\r\n",
    "SUBSCRIBE a\r\nMONITOR\r\nRESET\r\n",
    "REPLCONF listening-port 1\r\nPING\r\n",
    "REPLCONF x y\r\nPING\r\n",
    "REPLCONF\r\n",
    "REPLCONF ACK 0\r\nPING\r\n",
    "PSYNC\r\n",
    "CLIENT NONSENSE\r\n",
    "CLIENT\r\n",
    "EVAL \"return {1,'a',{2,{3}},false}\" 0\r\n",
    "EVAL \"return redis.error_reply('LOADING it is not')\" 0\r\nPING\r\n",
    "EVAL \"return nonsense(\" 0\r\n",
    "LRANGE none 0 -1\r\n",
    "COMMAND INFO get nonsense\r\n",
];

/// Where Valkey 9 reads a request otherwise than Redis 7, and so otherwise than Levee: the text, the reply of Valkey, the
/// reply through Levee; each with whether the connection is closed.
#[expect(
    clippy::type_complexity,
    reason = "a table, which is read in one place"
)]
const UNLIKE_VALKEY: [(&str, (&str, bool), (&str, bool)); 2] = [
    // Valkey treats text after a closing quote as part of the argument.
    (
        "ECHO 'a'b\r\n",
        ("$2\r\nab\r\n$6\r\nmarker\r\n", false),
        (
            "-ERR Protocol error: unbalanced quotes in request\r\n",
            true,
        ),
    ),
    // Redis skips the two bytes after an argument; Valkey checks them, and Levee connects to it again.
    (
        "*1\r\n$4\r\nPINGxx",
        ("-ERR Protocol error: invalid CRLF in request\r\n", true),
        (
            "-ERR Protocol error: invalid CRLF in request\r\n$6\r\nmarker\r\n",
            false,
        ),
    ),
];

/// Whether these replies are the known difference from Valkey, in either version of the protocol.
fn is_known_of_valkey(text: &str, direct: &(String, bool), through: &(String, bool)) -> bool {
    let is = |(said, closed): &(String, bool), (wanted, is_closed): (&str, bool)| {
        said.ends_with(wanted) && *closed == is_closed
    };
    UNLIKE_VALKEY.iter().any(|(known, of_valkey, of_levee)| {
        *known == text && is(direct, *of_valkey) && is(through, *of_levee)
    })
}

fn texts() -> Vec<String> {
    let long = format!("ECHO {}\r\n", "x".repeat(60_000));
    let many = "PING\r\n".repeat(5_000);
    let arguments = format!("*20001\r\n$3\r\nDEL\r\n{}", "$1\r\na\r\n".repeat(20_000));
    LINES
        .iter()
        .map(ToString::to_string)
        .chain([long, many, arguments])
        .collect()
}

#[test]
fn odd_commands_are_answered_as_redis_answers_them() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    let mut other = redis.client().unwrap();
    let is_valkey = other.ask("INFO server").unwrap().contains("valkey_version");
    let mut differences = Vec::new();
    for text in &texts() {
        // In both versions of the protocol.
        for protocol in ["", "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"] {
            let bytes = format!("{protocol}{text}");
            other.ask("FLUSHALL").unwrap();
            let direct = said(redis.address, bytes.as_bytes());
            other.ask("FLUSHALL").unwrap();
            let through = said(sidecar.address().unwrap(), bytes.as_bytes());
            if direct != through && !(is_valkey && is_known_of_valkey(text, &direct, &through)) {
                let shown = bytes[..bytes.len().min(200)].escape_debug();
                differences.push(format!(
                    "{shown}:\n  direct  {direct:?}\n  through {through:?}"
                ));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(!sidecar.log().contains("panicked"));
}

/// A browser can be made to send a request with any body to any port; Redis guards against that, and so must what stands
/// before it.
#[test]
fn a_request_of_http_ends_the_connection_and_executes_nothing() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    for head in [
        "POST / HTTP/1.1\r\n",
        "post / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n",
        "PUT / HTTP/1.1\r\nhost: x\r\n",
        "*2\r\n$4\r\nPOST\r\n$1\r\n/\r\n",
    ] {
        for address in [redis.address, sidecar.address().unwrap()] {
            let (_, is_closed) = said(address, format!("{head}SET stolen 1\r\n").as_bytes());
            assert!(is_closed, "{head}");
            assert_eq!(
                redis.client().unwrap().ask("GET stolen").unwrap(),
                "$-1\r\n",
                "{head}"
            );
        }
    }
    assert_eq!(sidecar.client().unwrap().ask("PING").unwrap(), "+PONG\r\n");
}

#[test]
fn nothing_is_executed_behind_quit() {
    let redis = Redis::start().unwrap();
    let sidecar = Sidecar::before(redis.address, "").unwrap();
    for address in [redis.address, sidecar.address().unwrap()] {
        let reply = said(address, b"INCR a\r\nQUIT\r\nINCR b\r\n");
        assert!(reply.0.ends_with("+OK\r\n") && reply.1, "{reply:?}");
        assert_eq!(redis.client().unwrap().ask("GET b").unwrap(), "$-1\r\n");
    }
    assert_eq!(redis.client().unwrap().ask("GET a").unwrap(), "$1\r\n2\r\n");
}
