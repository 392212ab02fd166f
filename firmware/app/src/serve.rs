//! The service: a model is opened, requests are answered, until the host asks for another model, an update, or a new start.

use crate::board::{Board, Parts};
use crate::card::{Contents, Place, source};
use crate::generate::{Open, Text};
use crate::link::{Link, Message};
use crate::model::{Arena, Plan, Resident, Watched, read_head};
use crate::selftest;
use crate::trouble::Trouble;
use crate::update::Update;
use bourn_core::{Session, WeightStream};
use bourn_flash::{FlashStream, stream};
use bourn_format::Image;
use bourn_kernels::{Kernels, Rows};
use bourn_protocol::VERSION;
use bourn_protocol::message::{Answer, Build, Done, Hello, Info, Load, Model, Outcome, Request, Stats, Why};
use core::cell::Cell;
use core::fmt;
use embedded_io::{Read, ReadReady, Write};
use embedded_sdmmc::BlockDevice;

/// Why [`run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The host wants the board started anew.
    Reboot {
        /// And to stay in the loader, if there is one.
        loader: bool,
    },
}

/// Bytes of log moved at a time.
const LOG: usize = 256;

/// How the last long work ended: said again to a host that did not hear it.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    Accepted,
    Done(Done),
    Update { slot: u8, next: u64, window: u8 },
    Refused(Trouble),
}

/// Long work that is going on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub sequence: u16,
    /// Nobody asked for it: who asks for something else waits.
    pub unasked: bool,
    pub done: u64,
    pub of: u64,
    /// Its host, or another, wants it to end.
    pub cancelled: bool,
    /// Pieces of its answer were lost: tokens and bytes of text that arrived.
    pub resend: Option<(u32, u32)>,
}

impl Job {
    pub const fn new(sequence: u16) -> Self {
        Self { sequence, unasked: false, done: 0, of: 0, cancelled: false, resend: None }
    }
}

/// The board's side of the line, and what the host may ask about at any time.
pub(crate) struct Desk<'a, B, S> {
    pub board: B,
    pub link: Link<S>,
    pub name: &'a str,
    pub firmware: &'a str,
    pub build: Build,
    pub tiers: &'a [&'static Kernels],
    pub decode: &'a dyn Rows,
    pub prefill: &'a dyn Rows,
    pub window: u8,
    pub stats: Stats,
    pub memo: Option<(u16, Ending)>,
}

impl<B: Board, S: Read + Write + ReadReady> Desk<'_, B, S> {
    pub fn kernels(&self) -> &'static Kernels {
        self.tiers.first().copied().unwrap_or(&bourn_kernels::scalar::TABLE)
    }

    pub fn log(&mut self, line: fmt::Arguments<'_>) {
        self.board.log(line);
        self.flush_log();
    }

    pub fn flush_log(&mut self) {
        let mut bytes = [0; LOG];
        loop {
            let n = self.board.take_log(&mut bytes).min(LOG);
            if n == 0 {
                return;
            }
            self.link.log(&bytes[..n]);
        }
    }

    pub fn answer(&mut self, sequence: u16, answer: &Answer<'_>) {
        self.link.answer(sequence, answer);
    }

    pub fn refuse(&mut self, sequence: u16, trouble: &Trouble) {
        self.answer(sequence, &Answer::Refused { why: trouble.why, text: &trouble.text });
    }

    /// Says how long work ended, and keeps it.
    pub fn end(&mut self, sequence: u16, ending: Ending) {
        self.memo = Some((sequence, ending));
        self.remind(sequence);
    }

    /// Says again how the work of this number ended; false if it is not the last.
    pub fn remind(&mut self, sequence: u16) -> bool {
        let Some((known, ending)) = &self.memo else { return false };
        if *known != sequence {
            return false;
        }
        match ending {
            Ending::Accepted => self.link.answer(sequence, &Answer::Accepted),
            Ending::Done(done) => self.link.answer(sequence, &Answer::Done(*done)),
            Ending::Update { slot, next, window } => {
                self.link.answer(sequence, &Answer::Update { slot: *slot, next: *next, window: *window });
            }
            Ending::Refused(t) => self.link.answer(sequence, &Answer::Refused { why: t.why, text: &t.text }),
        }
        true
    }

    /// The next request that this version can read. Others are refused here.
    pub fn next(&mut self) -> Option<Message> {
        let message = self.link.next()?;
        if message.version != VERSION {
            let trouble = Trouble::new(
                Why::Version,
                format_args!("the firmware speaks version {VERSION} of the protocol, the host version {}", message.version),
            );
            self.refuse(message.sequence, &trouble);
            return None;
        }
        if postcard::from_bytes::<Request<'_>>(&message.body).is_err() {
            let bytes = message.body.len();
            self.refuse(message.sequence, &Trouble::new(Why::Unknown, format_args!("no such request ({bytes} bytes)")));
            return None;
        }
        Some(message)
    }

    fn greet(&mut self, sequence: u16, nonce: u32) {
        self.memo = None;
        let log = self.board.log_kind();
        let hello = Hello { nonce, board: self.name, firmware: self.firmware, log, build: self.build };
        self.link.answer(sequence, &Answer::Hello(hello));
    }

    fn tell_stats(&mut self, sequence: u16, card_bytes: u64) {
        let health = self.board.health();
        let faults = self.link.faults();
        let stats = Stats {
            uptime_us: self.board.now_us(),
            card_bytes,
            frames_good: faults.good,
            frames_bad: faults.corrupt.saturating_add(faults.oversized),
            millicelsius: health.millicelsius,
            core_hz: health.core_hz,
            throttled: health.throttled,
            ..self.stats
        };
        self.link.answer(sequence, &Answer::Stats(stats));
    }

    /// Looks at the line while work goes on.
    pub fn look(&mut self, job: &mut Job) {
        self.flush_log();
        job.cancelled |= self.board.wants_reboot();
        while let Some(message) = self.next() {
            let Ok(request) = postcard::from_bytes::<Request<'_>>(&message.body) else { continue };
            let ours = message.sequence == job.sequence;
            match request {
                Request::Hello { nonce } => {
                    job.cancelled |= !job.unasked;
                    self.greet(message.sequence, nonce);
                }
                Request::Cancel if ours => job.cancelled = true,
                Request::Cancel => self.answer(message.sequence, &Answer::Accepted),
                Request::Reboot { .. } => {
                    // Asked again when there is nothing else to do.
                    job.cancelled = true;
                    self.answer(message.sequence, &Answer::Progress { done: job.done, of: job.of });
                }
                Request::Resend { tokens, text } if ours => job.resend = Some((tokens, text)),
                Request::Stats => self.tell_stats(message.sequence, self.stats.card_bytes),
                _ if ours || job.unasked => self.answer(message.sequence, &Answer::Progress { done: job.done, of: job.of }),
                _ => self.refuse(
                    message.sequence,
                    &Trouble::new(Why::Busy, format_args!("the board is busy with request {}", job.sequence)),
                ),
            }
        }
    }
}

/// What is to be done after the requests of a model are at an end.
enum Next {
    Exit(Exit),
    /// Open this; the number of the request that wants it, if one does.
    Load(Load, Option<u16>),
    /// An update begins.
    Begin {
        sequence: u16,
        bytes: u64,
        sum: u64,
    },
}

/// Serves until the host wants the board started anew; then all that was answered has been sent.
pub fn run<B, S, D>(parts: Parts<'_, B, S, D>) -> (Exit, B, S)
where
    B: Board,
    S: Read + Write + ReadReady,
    D: BlockDevice,
{
    let Parts { name, firmware, build, board, serial, card, tiers, decode, prefill, memory, window } = parts;
    let link = Link::new(serial);
    let window = window.max(1);
    let mut desk =
        Desk { board, link, name, firmware, build, tiers, decode, prefill, window, stats: Stats::default(), memo: None };
    let mut room = Room {
        arena: memory.arena,
        blocks: memory.blocks,
        candidates: memory.candidates,
        card: card.as_ref(),
        counter: &Cell::new(0),
    };
    let mut next = Next::Load(Load::default(), None);
    loop {
        next = match next {
            Next::Exit(exit) => {
                desk.flush_log();
                return (exit, desk.board, desk.link.into_serial());
            }
            Next::Load(load, asked) => match open(&mut desk, &mut room, &load, asked) {
                Ok(next) => next,
                Err(trouble) => {
                    desk.log(format_args!("no model: {trouble}"));
                    if let Some(sequence) = asked {
                        desk.end(sequence, Ending::Refused(trouble.clone()));
                    }
                    serve_bare(&mut desk, &mut room, &trouble, None)
                }
            },
            Next::Begin { sequence, bytes, sum } => {
                let trouble = Trouble::new(Why::NoModel, format_args!("an update is on its way"));
                match Update::begin(&mut room, bytes, sum) {
                    Ok(update) => {
                        desk.log(format_args!("update: {bytes} bytes for slot {}", update.slot));
                        let ending = update.ending(desk.window);
                        desk.end(sequence, ending);
                        serve_bare(&mut desk, &mut room, &trouble, Some(update))
                    }
                    Err(trouble) => {
                        desk.end(sequence, Ending::Refused(trouble));
                        // What was open is opened again, and nobody waits for it.
                        Next::Load(Load::default(), None)
                    }
                }
            }
        };
    }
}

/// What models and updates are made of.
pub(crate) struct Room<'a, D> {
    pub arena: &'a mut [u8],
    pub blocks: &'a mut [embedded_sdmmc::Block],
    pub candidates: &'a mut [bourn_core::Candidate],
    pub card: Option<&'a D>,
    pub counter: &'a Cell<u64>,
}

impl<'a, D: BlockDevice> Room<'a, D> {
    pub fn card(&self) -> Result<&'a D, Trouble> {
        self.card.ok_or_else(|| Trouble::new(Why::NoCard, format_args!("no card: need one, found none")))
    }
}

/// Finds the image, opens it and serves; an error if none can be opened. `asked`: the request that wants it.
fn open<B: Board, S: Read + Write + ReadReady, D: BlockDevice>(
    desk: &mut Desk<'_, B, S>,
    room: &mut Room<'_, D>,
    load: &Load,
    asked: Option<u16>,
) -> Result<Next, Trouble> {
    let card = room.card()?;
    let contents = Contents::read(card)?;
    let mut first = None;
    for place in contents.places(card, load.from)? {
        match open_place(desk, room, load, &place, first.as_ref(), asked) {
            Ok(next) => return Ok(next),
            Err(trouble) => {
                desk.log(format_args!("{:?}: {trouble}", place.from));
                first.get_or_insert(trouble);
            }
        }
    }
    Err(first.unwrap_or_else(|| Trouble::new(Why::NoModel, format_args!("no image on the card"))))
}

fn open_place<B: Board, S: Read + Write + ReadReady, D: BlockDevice>(
    desk: &mut Desk<'_, B, S>,
    room: &mut Room<'_, D>,
    load: &Load,
    place: &Place,
    skipped: Option<&Trouble>,
    asked: Option<u16>,
) -> Result<Next, Trouble> {
    let card = room.card()?;
    let start = desk.board.now_us();
    let ram = room.arena.len();
    let mut arena = Arena::new(room.arena);
    let mut job = Job { unasked: asked.is_none(), ..Job::new(asked.unwrap_or(0)) };
    let mut source = source(card, room.counter, place, room.blocks)?;
    let head = read_head(&mut source, place, &mut arena)?;
    let image = &Image::new_checked(head)?;
    let plan = Plan::choose(image, load, ram - arena.taken())?;
    let workspace = arena.take(plan.workspace)?;
    let session = Session::new(image, &plan.options, workspace)?;
    let weights = arena.take(plan.weights)?;
    let [prompt, scratch, text] = [plan.prompt, plan.scratch, plan.text].map(|n| arena.take(n));
    let [tokens, ids, written, ends] = [plan.words(); 4].map(|n| arena.words(n));
    let text = Text::new(text?, written?, ends?);
    let mut open = Open {
        image,
        session,
        candidates: room.candidates,
        prompt: prompt?,
        scratch: scratch?,
        tokens: tokens?,
        ids: ids?,
        known: 0,
        text,
        sum: (0, 0),
    };
    let recommended = image.generation();
    let mut about = Model {
        id: crate::slots::id_of(head),
        from: place.from,
        bytes: image.superblock().file_bytes,
        parameters: image.parameters(),
        bytes_per_token: image.bytes_per_token(),
        vocab: image.shape().vocab,
        context: plan.options.context as u32,
        prompt_bytes: plan.prompt as u32,
        resident: plan.resident,
        ram_bytes: arena.taken() as u64,
        open_us: 0,
        temperature: recommended.temperature,
        top_k: recommended.top_k,
        top_p: recommended.top_p,
        min_p: recommended.min_p,
        repetition_penalty: recommended.repetition_penalty,
    };
    let mut service = Service { about: &mut about, start, skipped, asked, ram: ram as u64, counter: room.counter, card };
    if plan.resident {
        let mut stream = Resident::read(image, &mut source, weights, &mut |done, of| {
            (job.done, job.of) = (done, of);
            desk.look(&mut job);
            if job.cancelled { Err(Trouble::new(Why::Busy, format_args!("cancelled"))) } else { Ok(()) }
        })?;
        Ok(service.serve(desk, &mut open, &mut stream, &|_| (0, 0)))
    } else {
        let mut stream = FlashStream::new(image, source, weights)?;
        debug_assert!(plan.weights >= stream::buffer_bytes(image));
        Ok(service.serve(desk, &mut open, &mut stream, &|s| {
            let stats = s.stats();
            (stats.retried_reads, stats.reread_pages)
        }))
    }
}

/// An open model that is served.
struct Service<'s, D> {
    about: &'s mut Model,
    start: u64,
    skipped: Option<&'s Trouble>,
    asked: Option<u16>,
    ram: u64,
    counter: &'s Cell<u64>,
    card: &'s D,
}

impl<D: BlockDevice> Service<'_, D> {
    /// Answers requests until one needs another model.
    fn serve<B: Board, S: Read + Write + ReadReady, W: WeightStream>(
        &mut self,
        desk: &mut Desk<'_, B, S>,
        open: &mut Open<'_, '_>,
        stream: &mut W,
        faults: &dyn Fn(&W) -> (u64, u64),
    ) -> Next {
        self.about.open_us = desk.board.now_us().saturating_sub(self.start);
        let where_ = if self.about.resident { "resident" } else { "paged" };
        desk.log(format_args!(
            "isa={} cores={} stream={where_} context={} ready in {} us",
            desk.kernels().isa,
            desk.decode.workers(),
            self.about.context,
            self.about.open_us
        ));
        if let Some(sequence) = self.asked {
            desk.end(sequence, Ending::Accepted);
        }
        let (retried, reread) = (desk.stats.retried_reads, desk.stats.reread_pages);
        loop {
            desk.flush_log();
            let Some(message) = desk.next() else {
                if desk.board.wants_reboot() {
                    return Next::Exit(Exit::Reboot { loader: false });
                }
                desk.board.idle();
                continue;
            };
            let Ok(request) = postcard::from_bytes::<Request<'_>>(&message.body) else { continue };
            let sequence = message.sequence;
            match request {
                Request::Info => {
                    let contents = Contents::read(self.card);
                    let about = *self.about;
                    tell_info(desk, sequence, self.ram, contents.ok().map(|c| (c, self.card)), Some(about), self.skipped);
                }
                Request::Prompt { offset, bytes } => match open.put(offset, bytes) {
                    Ok(()) => desk.answer(sequence, &Answer::Accepted),
                    Err(trouble) => desk.refuse(sequence, &trouble),
                },
                Request::Generate(_) if desk.remind(sequence) => {}
                Request::Generate(generate) => {
                    let mut job = Job::new(sequence);
                    let ended = open.generate(desk, stream, &mut job, &generate);
                    let (a, b) = faults(stream);
                    (desk.stats.retried_reads, desk.stats.reread_pages) = (retried + a, reread + b);
                    desk.stats.card_bytes = self.counter.get();
                    match ended {
                        Ok(done) => desk.end(sequence, Ending::Done(done)),
                        Err(trouble) => {
                            desk.log(format_args!("request {sequence}: {trouble}"));
                            desk.end(sequence, Ending::Refused(trouble));
                        }
                    }
                }
                Request::Resend { tokens, text } => {
                    if matches!(&desk.memo, Some((known, Ending::Done(_))) if *known == sequence) {
                        open.text.resend(&mut desk.link, sequence, tokens, text);
                    }
                    if !desk.remind(sequence) {
                        desk.refuse(
                            sequence,
                            &Trouble::new(Why::Prompt, format_args!("nothing was written for request {sequence}")),
                        );
                    }
                }
                Request::Sum => desk.answer(sequence, &Answer::Sum { rows: open.sum.0, sum: open.sum.1 }),
                Request::Read { part, offset } => open.read(desk, sequence, part, offset),
                Request::SelfTest { index, run } => {
                    let mut job = Job::new(sequence);
                    let image = open.image;
                    selftest::answer(desk, sequence, index, run, &mut |desk| {
                        let mut look = || {
                            desk.look(&mut job);
                            job.cancelled
                        };
                        selftest::segments(image, &mut Watched { inner: stream, look: &mut look })
                    });
                }
                Request::Load(load) if !desk.remind(sequence) => return Next::Load(load, Some(sequence)),
                Request::Begin { bytes, sum } => return Next::Begin { sequence, bytes, sum },
                Request::Reboot { loader } => {
                    desk.answer(sequence, &Answer::Accepted);
                    return Next::Exit(Exit::Reboot { loader });
                }
                other => common(desk, sequence, &other, self.counter.get(), None),
            }
        }
    }
}

/// Requests that are answered the same whether a model is open or not.
fn common<B: Board, S: Read + Write + ReadReady>(
    desk: &mut Desk<'_, B, S>,
    sequence: u16,
    request: &Request<'_>,
    card_bytes: u64,
    trouble: Option<&Trouble>,
) {
    match request {
        Request::Hello { nonce } => desk.greet(sequence, *nonce),
        Request::Stats => desk.tell_stats(sequence, card_bytes),
        Request::Cancel => {
            if !desk.remind(sequence) {
                desk.answer(sequence, &Answer::Accepted);
            }
        }
        Request::Chunk { .. } | Request::Verify | Request::Switch => {
            if !desk.remind(sequence) {
                desk.refuse(sequence, &Trouble::new(Why::Update, format_args!("no update is on its way: begin one")));
            }
        }
        _ => {
            if !desk.remind(sequence) {
                match trouble {
                    Some(trouble) => desk.answer(sequence, &Answer::Refused { why: Why::NoModel, text: &trouble.text }),
                    None => desk.refuse(sequence, &Trouble::new(Why::Busy, format_args!("not now"))),
                }
            }
        }
    }
}

fn tell_info<B: Board, S: Read + Write + ReadReady, D: BlockDevice>(
    desk: &mut Desk<'_, B, S>,
    sequence: u16,
    ram_bytes: u64,
    contents: Option<(Contents, &D)>,
    model: Option<Model>,
    trouble: Option<&Trouble>,
) {
    let slots = contents.as_ref().and_then(|(c, card)| c.slots?.describe(*card).ok());
    let info = Info {
        isa: desk.kernels().isa,
        cores: desk.decode.workers().min(255) as u8,
        ram_bytes,
        card_blocks: contents.map_or(0, |(c, _)| c.n_blocks),
        model,
        trouble: trouble.map_or("", |t| t.text.as_str()),
        slots,
        tests: selftest::count(desk.tiers),
    };
    desk.link.answer(sequence, &Answer::Info(info));
}

/// Serves while no model is open: `trouble` says why.
fn serve_bare<B: Board, S: Read + Write + ReadReady, D: BlockDevice>(
    desk: &mut Desk<'_, B, S>,
    room: &mut Room<'_, D>,
    trouble: &Trouble,
    mut update: Option<Update>,
) -> Next {
    loop {
        desk.flush_log();
        let Some(message) = desk.next() else {
            if desk.board.wants_reboot() {
                return Next::Exit(Exit::Reboot { loader: false });
            }
            desk.board.idle();
            continue;
        };
        let Ok(request) = postcard::from_bytes::<Request<'_>>(&message.body) else { continue };
        let sequence = message.sequence;
        match (request, &mut update) {
            (Request::Info, _) => {
                let contents = room.card.and_then(|card| Some((Contents::read(card).ok()?, card)));
                tell_info(desk, sequence, room.arena.len() as u64, contents, None, Some(trouble));
            }
            (Request::Load(load), _) if !desk.remind(sequence) => return Next::Load(load, Some(sequence)),
            (Request::Begin { bytes, sum }, Some(update)) if update.is_of(bytes, sum) => {
                desk.end(sequence, update.ending(desk.window));
            }
            (Request::Begin { bytes, sum }, _) => return Next::Begin { sequence, bytes, sum },
            (Request::Chunk { offset, bytes }, Some(update)) => match update.put(room, offset, bytes) {
                Ok(()) => desk.end(sequence, update.ending(desk.window)),
                Err(trouble) => desk.end(sequence, Ending::Refused(trouble)),
            },
            (Request::Verify, Some(update)) if !desk.remind(sequence) => {
                let mut job = Job::new(sequence);
                let ended = update.verify(room, &mut |done, of| {
                    (job.done, job.of) = (done, of);
                    desk.look(&mut job);
                    if job.cancelled { Err(Trouble::new(Why::Busy, format_args!("cancelled"))) } else { Ok(()) }
                });
                match ended {
                    Ok(()) => desk.end(sequence, update.ending(desk.window)),
                    Err(trouble) => {
                        desk.log(format_args!("update: {trouble}"));
                        desk.end(sequence, Ending::Refused(trouble));
                    }
                }
            }
            (Request::Switch, Some(under_way)) => match under_way.switch(room) {
                Ok((slot, times)) => {
                    desk.log(format_args!("update: slot {slot} is in use"));
                    desk.answer(sequence, &Answer::Switched { slot, sequence: times });
                    // It stays, for a host that asks again, until another model is asked for.
                }
                Err(trouble) => desk.refuse(sequence, &trouble),
            },
            (Request::SelfTest { index, run }, _) => {
                selftest::answer(desk, sequence, index, run, &mut |_| {
                    (Outcome::Skipped, Trouble::new(Why::NoModel, format_args!("no model is open")))
                });
            }
            (Request::Reboot { loader }, _) => {
                desk.answer(sequence, &Answer::Accepted);
                return Next::Exit(Exit::Reboot { loader });
            }
            (other, _) => common(desk, sequence, &other, room.counter.get(), Some(trouble)),
        }
    }
}
