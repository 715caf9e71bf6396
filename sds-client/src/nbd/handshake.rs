//! The haggling before transmission: greeting, client flags, options. Knows nothing of requests.
//!
//! Invariants: at most one option is being worked on, and while its answer is awaited no byte is
//! looked at; at most [`OPTION_BYTES_MAX`] bytes of a client are kept; a client that does not read its replies is not
//! read; an option that is not
//! understood is answered and skipped, a stream that is not the protocol ends the connection.

use super::constants::{
    CONTEXT_ALLOCATION, CONTEXT_ALLOCATION_ID, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, GREETING_MAGIC, InfoType, OPTION_MAGIC, OptionCode,
    OptionReply,
};
use super::export::{ExportError, ExportInfo};
use super::option::{InfoRequests, OPTION_BYTES_MAX, OptionError, decode_info, decode_meta_context, reply, text};
use super::reply::Output;
use super::request::Negotiated;
use super::{CloseReason, Effect, OUTPUT_SEGMENTS_HIGH, Purpose};

#[derive(Debug)]
enum Stage {
    ClientFlags,
    OptionHeader,
    OptionData {
        option: OptionCode,
        len: usize,
    },
    /// Skips the payload of an option that is then refused.
    Skip {
        option: u32,
        left: u32,
        kind: OptionReply,
        message: &'static str,
    },
    Awaiting(Question),
    Done,
}

#[derive(Clone, Copy, Debug)]
enum Question {
    List,
    Info { go: bool, requests: InfoRequests },
    ExportName,
}

impl Question {
    const fn option(self) -> u32 {
        (match self {
            Self::List => OptionCode::List,
            Self::Info { go: false, .. } => OptionCode::Info,
            Self::Info { go: true, .. } => OptionCode::Go,
            Self::ExportName => OptionCode::ExportName,
        }) as u32
    }
}

/// What the handshake wants next.
#[derive(Debug)]
pub(super) enum Progress {
    /// More bytes.
    More,
    /// An answer from outside.
    Ask(Effect),
    /// Nothing until the answer comes.
    Awaiting,
    /// The client leaves; what is queued is still sent.
    Finish,
    /// The connection must end.
    Close(CloseReason),
}

/// One connection's handshake.
#[derive(Debug)]
pub(super) struct Handshake {
    stage: Stage,
    buffer: Vec<u8>,
    body: Vec<u8>,
    no_zeroes: bool,
    structured: bool,
    /// Export for which `base:allocation` is selected.
    allocation_of: Option<String>,
    /// What the client called the export it is asking about.
    asked: String,
}

impl Handshake {
    /// Starts with the greeting.
    pub(super) fn new(output: &mut Output) -> Self {
        output.push_bytes(&GREETING_MAGIC.to_be_bytes());
        output.push_bytes(&OPTION_MAGIC.to_be_bytes());
        output.push_bytes(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
        Self {
            stage: Stage::ClientFlags,
            buffer: Vec::new(),
            body: Vec::new(),
            no_zeroes: false,
            structured: false,
            allocation_of: None,
            asked: String::new(),
        }
    }

    /// Whether an answer from outside is awaited.
    pub(super) const fn is_awaiting(&self) -> bool {
        matches!(self.stage, Stage::Awaiting(_))
    }

    /// Looks at bytes until it wants something else than more of them.
    pub(super) fn receive(&mut self, rest: &mut &[u8], output: &mut Output, stopping: bool) -> Progress {
        loop {
            match self.stage {
                Stage::ClientFlags => {
                    let Some(flags) = self.fill(rest, 4).and_then(|bytes| bytes.first_chunk().copied()) else { return Progress::More };
                    self.buffer.clear();
                    let flags = u32::from_be_bytes(flags);
                    if flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
                        return Progress::Close(CloseReason::UnknownClientFlags { flags });
                    }
                    self.no_zeroes = flags & u32::from(FLAG_NO_ZEROES) != 0;
                    self.stage = Stage::OptionHeader;
                }
                // Who does not read what is answered is not read.
                Stage::OptionHeader if output.len() >= OUTPUT_SEGMENTS_HIGH => return Progress::More,
                Stage::OptionHeader => {
                    let Some(header) = self.fill(rest, 16).and_then(|bytes| bytes.first_chunk::<16>().copied()) else {
                        return Progress::More;
                    };
                    self.buffer.clear();
                    match Self::stage_after(&header, stopping) {
                        Ok(stage) => self.stage = stage,
                        Err(reason) => return Progress::Close(reason),
                    }
                }
                Stage::Skip { option, left, kind, message } => {
                    let skipped = rest.len().min(left as usize);
                    *rest = &rest[skipped..];
                    #[expect(clippy::cast_possible_truncation, reason = "at most `left`")]
                    let left = left - skipped as u32;
                    if left > 0 {
                        self.stage = Stage::Skip { option, left, kind, message };
                        return Progress::More;
                    }
                    reply(output, option, kind, &[message.as_bytes()]);
                    self.stage = Stage::OptionHeader;
                }
                Stage::OptionData { option, len } => {
                    if self.fill(rest, len).is_none() {
                        return Progress::More;
                    }
                    let payload = core::mem::take(&mut self.buffer);
                    self.stage = Stage::OptionHeader;
                    let progress = self.option(option, &payload, output);
                    self.buffer = payload;
                    self.buffer.clear();
                    match progress {
                        Progress::More => {}
                        Progress::Ask(_) | Progress::Awaiting | Progress::Finish | Progress::Close(_) => return progress,
                    }
                }
                Stage::Awaiting(_) | Stage::Done => return Progress::Awaiting,
            }
        }
    }

    /// Collects `want` bytes in the buffer; `None` while there are fewer.
    fn fill(&mut self, rest: &mut &[u8], want: usize) -> Option<&[u8]> {
        let count = rest.len().min(want - self.buffer.len());
        self.buffer.extend_from_slice(&rest[..count]);
        *rest = &rest[count..];
        (self.buffer.len() == want).then_some(&self.buffer[..])
    }

    fn stage_after(header: &[u8; 16], stopping: bool) -> Result<Stage, CloseReason> {
        let mut words = header.chunks_exact(4).map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
        let mut word = || words.next().unwrap_or_default();
        let magic = u64::from(word()) << 32 | u64::from(word());
        if magic != OPTION_MAGIC {
            return Err(CloseReason::BadOptionMagic);
        }
        let (option, len) = (word(), word());
        let skip = |kind, message| Ok(Stage::Skip { option, left: len, kind, message });
        match OptionCode::from_wire(option) {
            Some(OptionCode::ExportName) if stopping => Err(CloseReason::Stopping),
            Some(OptionCode::ExportName) if len > OPTION_BYTES_MAX => Err(CloseReason::ExportRefused),
            Some(OptionCode::Abort) => Ok(Stage::OptionData { option: OptionCode::Abort, len: 0 }),
            _ if stopping => skip(OptionReply::Shutdown, "the server is stopping"),
            None => skip(OptionReply::Unsupported, "this server does not know the option"),
            Some(OptionCode::StartTls) => {
                skip(OptionReply::Unsupported, "this server does not offer TLS; use a unix socket or a private network")
            }
            Some(_) if len > OPTION_BYTES_MAX => skip(OptionReply::TooBig, "the option is longer than 64 KiB"),
            Some(known) => Ok(Stage::OptionData { option: known, len: len as usize }),
        }
    }

    fn option(&mut self, option: OptionCode, payload: &[u8], output: &mut Output) -> Progress {
        let refuse = |output: &mut Output, error: OptionError| {
            let kind = match error {
                OptionError::NameTooLong => OptionReply::TooBig,
                OptionError::Lengths | OptionError::NotText | OptionError::Unexpected | OptionError::NotStructured => OptionReply::Invalid,
            };
            reply(output, option as u32, kind, &[error.to_string().as_bytes()]);
            Progress::More
        };
        match option {
            OptionCode::Abort => {
                reply(output, option as u32, OptionReply::Ack, &[]);
                self.stage = Stage::Done;
                Progress::Finish
            }
            OptionCode::List if payload.is_empty() => {
                self.stage = Stage::Awaiting(Question::List);
                Progress::Ask(Effect::ListExports)
            }
            OptionCode::StructuredReply if payload.is_empty() => {
                self.structured = true;
                reply(output, option as u32, OptionReply::Ack, &[]);
                Progress::More
            }
            OptionCode::List | OptionCode::StructuredReply | OptionCode::StartTls => refuse(output, OptionError::Unexpected),
            OptionCode::ExportName => match text(payload) {
                Ok(name) => self.ask(name, Purpose::Use, Question::ExportName),
                Err(_) => Progress::Close(CloseReason::ExportRefused),
            },
            OptionCode::Info | OptionCode::Go => match decode_info(payload) {
                Ok((name, requests)) => {
                    let go = option == OptionCode::Go;
                    let purpose = if go { Purpose::Use } else { Purpose::Describe };
                    self.ask(name, purpose, Question::Info { go, requests })
                }
                Err(error) => refuse(output, error),
            },
            OptionCode::ListMetaContext | OptionCode::SetMetaContext => {
                let listing = option == OptionCode::ListMetaContext;
                if !listing {
                    // Also when it then fails.
                    self.allocation_of = None;
                }
                if !self.structured {
                    return refuse(output, OptionError::NotStructured);
                }
                match decode_meta_context(payload, listing) {
                    Ok((name, found)) => {
                        if found {
                            let id = if listing { 0 } else { CONTEXT_ALLOCATION_ID };
                            let context = CONTEXT_ALLOCATION.as_bytes();
                            reply(output, option as u32, OptionReply::MetaContext, &[&id.to_be_bytes(), context]);
                            if !listing {
                                self.allocation_of = Some(name.to_owned());
                            }
                        }
                        reply(output, option as u32, OptionReply::Ack, &[]);
                        Progress::More
                    }
                    Err(error) => refuse(output, error),
                }
            }
        }
    }

    fn ask(&mut self, name: &str, purpose: Purpose, question: Question) -> Progress {
        self.stage = Stage::Awaiting(question);
        name.clone_into(&mut self.asked);
        Progress::Ask(Effect::OpenExport { name: name.to_owned(), purpose })
    }

    /// Answer to [`Effect::ListExports`].
    pub(super) fn listed(&mut self, exports: &[(String, String)], output: &mut Output) {
        let Stage::Awaiting(question @ Question::List) = self.stage else { return };
        for (name, description) in exports {
            let len = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes();
            reply(output, question.option(), OptionReply::Server, &[&len, name.as_bytes(), description.as_bytes()]);
        }
        reply(output, question.option(), OptionReply::Ack, &[]);
        self.stage = Stage::OptionHeader;
    }

    /// The question could not be answered.
    pub(super) fn refused(&mut self, error: &ExportError, output: &mut Output) -> Progress {
        let Stage::Awaiting(question) = self.stage else { return Progress::Awaiting };
        let kind = match error {
            ExportError::Unknown(_) => OptionReply::Unknown,
            ExportError::Refused(_) => OptionReply::Policy,
            ExportError::Stopping(_) => OptionReply::Shutdown,
        };
        match question {
            Question::ExportName => {
                self.stage = Stage::Done;
                Progress::Close(CloseReason::ExportRefused)
            }
            Question::List | Question::Info { .. } => {
                reply(output, question.option(), kind, &[error.to_string().as_bytes()]);
                self.stage = Stage::OptionHeader;
                Progress::More
            }
        }
    }

    /// The export is known (`INFO`) or open; says what was negotiated when transmission begins.
    pub(super) fn opened(&mut self, export: &ExportInfo, output: &mut Output) -> Option<Negotiated> {
        let Stage::Awaiting(question) = self.stage else { return None };
        match question {
            Question::List => None,
            Question::ExportName => {
                output.push_bytes(&export.size.to_be_bytes());
                output.push_bytes(&export.transmission_flags(self.structured).to_be_bytes());
                if !self.no_zeroes {
                    output.push_zeroes(124);
                }
                Some(self.begin())
            }
            Question::Info { go, requests } => {
                let wanted = [
                    (InfoType::Export, true),
                    (InfoType::Name, requests.name || self.asked != export.name),
                    (InfoType::Description, requests.description),
                    (InfoType::BlockSize, requests.block_size),
                ];
                for (kind, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
                    export.info(kind, self.structured, &mut self.body);
                    reply(output, question.option(), OptionReply::Info, &[&self.body]);
                }
                reply(output, question.option(), OptionReply::Ack, &[]);
                self.stage = Stage::OptionHeader;
                go.then(|| self.begin())
            }
        }
    }

    fn begin(&mut self) -> Negotiated {
        self.stage = Stage::Done;
        // Not needed any more; a connection lives long.
        (self.buffer, self.body) = (Vec::new(), Vec::new());
        let block_status = self.allocation_of.as_ref().is_some_and(|name| *name == self.asked);
        Negotiated { structured: self.structured, block_status }
    }
}
