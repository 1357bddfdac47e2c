//! A program that speaks the backend's side of vhost-user by hand, well or badly.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Requests by the numbers of the vhost-user protocol.
pub mod request {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
}

const VERSION: u32 = 1;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;

/// How the program answers.
#[derive(Clone)]
pub struct Habits {
    pub features: u64,
    pub protocol_features: u64,
    pub queues: u64,
    /// Falls silent at this request.
    pub silent_at: Option<u32>,
    /// Hangs up at this request.
    pub closes_at: Option<u32>,
    /// Says that this request failed.
    pub refuses: Option<u32>,
    /// Answers this request with nonsense: a header and as many bytes as it likes.
    pub garbles: Option<(u32, Vec<u8>)>,
    /// Sends one byte of its answers at a time, with a pause.
    pub dribbles: bool,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            // VIRTIO_F_VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES, event index, indirect descriptors, and two that
            // nobody asked for.
            features: 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28 | 1 << 33 | 1 << 26,
            // Everything there is.
            protocol_features: u64::MAX,
            queues: 2,
            silent_at: None,
            closes_at: None,
            refuses: None,
            garbles: None,
            dribbles: false,
        }
    }
}

/// A message that the program got.
#[derive(Debug)]
pub struct Message {
    pub request: u32,
    pub payload: Vec<u8>,
    pub file: Option<File>,
}

impl Message {
    /// The 64-bit number at `offset` of the payload.
    pub fn u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.payload[offset..offset + 8].try_into().unwrap())
    }

    /// The 32-bit number at `offset` of the payload.
    pub fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.payload[offset..offset + 4].try_into().unwrap())
    }
}

/// The program: a thread that runs until the other side hangs up.
pub struct FakeProgram {
    heard: Arc<Mutex<Vec<Message>>>,
    socket: UnixStream,
}

impl FakeProgram {
    pub fn run(socket: UnixStream, habits: Habits) -> Self {
        let heard = Arc::default();
        let program = Self {
            heard: Arc::clone(&heard),
            socket: socket.try_clone().unwrap(),
        };
        thread::spawn(move || {
            while let Some((flags, message)) = receive(&socket) {
                let known = answer(&socket, &habits, flags, &message);
                heard.lock().unwrap().push(message);
                if !known {
                    return;
                }
            }
        });
        program
    }

    /// What it has heard since the last call, once there is a message for which `last` holds.
    pub fn hear(&self, last: impl Fn(&Message) -> bool) -> Vec<Message> {
        let start = Instant::now();
        loop {
            let mut heard = self.heard.lock().unwrap();
            if heard.iter().any(&last) {
                return std::mem::take(&mut heard);
            }
            drop(heard);
            assert!(start.elapsed() < Duration::from_secs(10), "never heard");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many messages it has heard since it was last asked.
    pub fn count(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    /// Says something.
    pub fn say(&self, bytes: &[u8]) {
        (&self.socket).write_all(bytes).unwrap();
    }

    /// Its end.
    pub fn end(&self) {
        self.socket.shutdown(Shutdown::Both).unwrap();
    }
}

fn receive(socket: &UnixStream) -> Option<(u32, Message)> {
    let mut header = [0_u8; 12];
    let mut fds = [0; 4];
    let mut parts = [libc::iovec {
        iov_base: header.as_mut_ptr().cast(),
        iov_len: header.len(),
    }];
    // SAFETY: the vector's one part is the header, which may be written.
    let (len, count) = unsafe { socket.recv_with_fds(&mut parts, &mut fds) }.ok()?;
    // SAFETY: these descriptors were just received, so that nobody else owns them.
    let files = fds[..count].iter().map(|fd| unsafe { File::from_raw_fd(*fd) });
    let file = files.collect::<Vec<_>>().into_iter().next();
    (&*socket).read_exact(header.get_mut(len..)?).ok()?;
    let word = |offset: usize| u32::from_ne_bytes(header[offset..offset + 4].try_into().unwrap());
    let mut payload = vec![0; usize::try_from(word(8)).unwrap()];
    (&*socket).read_exact(&mut payload).ok()?;
    let request = word(0);
    Some((
        word(4),
        Message {
            request,
            payload,
            file,
        },
    ))
}

/// Answers if an answer is due; false when that was the last word.
fn answer(socket: &UnixStream, habits: &Habits, flags: u32, message: &Message) -> bool {
    let request = message.request;
    if habits.closes_at == Some(request) {
        socket.shutdown(Shutdown::Both).unwrap();
        return false;
    }
    if habits.silent_at == Some(request) {
        thread::sleep(Duration::from_secs(20));
        return false;
    }
    if let Some((_, bytes)) = habits.garbles.as_ref().filter(|(garbled, _)| *garbled == request) {
        return (&*socket).write_all(bytes).is_ok();
    }
    let body = match request {
        request::GET_FEATURES => habits.features.to_ne_bytes(),
        request::GET_PROTOCOL_FEATURES => habits.protocol_features.to_ne_bytes(),
        request::GET_QUEUE_NUM => habits.queues.to_ne_bytes(),
        request::GET_VRING_BASE => message.payload[..8].try_into().unwrap(),
        _ if flags & NEED_REPLY != 0 => u64::from(habits.refuses == Some(request)).to_ne_bytes(),
        _ => return true,
    };
    let mut reply = reply(request, 8);
    reply.extend(body);
    if !habits.dribbles {
        return (&*socket).write_all(&reply).is_ok();
    }
    reply.iter().all(|byte| {
        thread::sleep(Duration::from_millis(20));
        (&*socket).write_all(&[*byte]).is_ok()
    })
}

/// The header of an answer to `request` with a body of `size` bytes.
pub fn reply(request: u32, size: u32) -> Vec<u8> {
    [request, VERSION | REPLY, size]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect()
}
