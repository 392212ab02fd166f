//! The service: a model is opened, requests are answered, until the host asks for another model, an update, or a new start.

use crate::board::{Board, Parts};
use crate::card::{Contents, Place, source};
use crate::desk::{Desk, Ending, Job};
use crate::generate::{Open, Text};
use crate::link::Link;
use crate::model::{Arena, Plan, Resident, Watched, read_head};
use crate::selftest;
use crate::trouble::Trouble;
use crate::update::Update;
use bourn_core::{Session, WeightStream};
use bourn_flash::{Ahead, FlashStream, stream};
use bourn_format::Image;
use bourn_protocol::message::{Answer, Load, Model, Outcome, Request, Stats, Why};
use core::cell::Cell;
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
    let Parts { name, firmware, build, board, serial, card, ahead, tiers, decode, prefill, memory, window } = parts;
    let link = Link::new(serial);
    let window = window.max(1);
    let mut desk =
        Desk { board, link, name, firmware, build, tiers, decode, prefill, window, stats: Stats::default(), memo: None };
    let mut room = Room {
        arena: memory.arena,
        blocks: memory.blocks,
        candidates: memory.candidates,
        card: card.as_ref(),
        ahead,
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
    pub ahead: Option<&'a dyn Ahead>,
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
    let mut source = source(card, room.counter, place, room.blocks, room.ahead)?;
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
    let mut service =
        Service { about: &mut about, start, skipped, asked, ram: ram as u64, counter: room.counter, ahead: room.ahead, card };
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
    ahead: Option<&'s dyn Ahead>,
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
            let Some(message) = desk.wait() else { return Next::Exit(Exit::Reboot { loader: false }) };
            let Ok(request) = postcard::from_bytes::<Request<'_>>(&message.body) else { continue };
            let sequence = message.sequence;
            match request {
                Request::Info => {
                    let contents = Contents::read(self.card);
                    let about = *self.about;
                    desk.tell_info(sequence, self.ram, contents.ok().map(|c| (c, self.card)), Some(about), self.skipped);
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
                    desk.stats.ahead_bytes = self.ahead.map_or(0, Ahead::ready_bytes);
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
                other => desk.common(sequence, &other, self.counter.get(), None),
            }
        }
    }
}

/// Serves while no model is open: `trouble` says why.
fn serve_bare<B: Board, S: Read + Write + ReadReady, D: BlockDevice>(
    desk: &mut Desk<'_, B, S>,
    room: &mut Room<'_, D>,
    trouble: &Trouble,
    mut update: Option<Update>,
) -> Next {
    loop {
        let Some(message) = desk.wait() else { return Next::Exit(Exit::Reboot { loader: false }) };
        let Ok(request) = postcard::from_bytes::<Request<'_>>(&message.body) else { continue };
        let sequence = message.sequence;
        match (request, &mut update) {
            (Request::Info, _) => {
                let contents = room.card.and_then(|card| Some((Contents::read(card).ok()?, card)));
                desk.tell_info(sequence, room.arena.len() as u64, contents, None, Some(trouble));
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
            (other, _) => desk.common(sequence, &other, room.counter.get(), Some(trouble)),
        }
    }
}
