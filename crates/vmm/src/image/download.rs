//! Downloads a file, from the part that is already there to the whole file.

use std::{
    error::Error,
    io::Read,
    thread,
    time::{Duration, Instant},
};

use ureq::{
    Agent, Body,
    http::{Response, header},
};

use super::{
    Digest, ImageError, Progress, Settings,
    answer::{self, Verdict},
    client,
    digest::CHUNK,
    part::{DownloadTarget, Part},
};

/// The number of bytes after which the room on the file system is looked at again.
const LOOK: u64 = 16 << 20;

/// One download.
pub(super) struct Download<'a> {
    target: &'a DownloadTarget,
    part: Part<'a>,
    agent: Agent,
    settings: &'a Settings,
    progress: &'a mut dyn FnMut(Progress),
    begun: Instant,
}

/// The reason why an attempt did not receive the whole file.
enum Stop {
    /// The connection broke; another attempt may succeed.
    Break(Box<dyn Error + Send + Sync>, Option<u64>),
    Final(ImageError),
}

impl From<ImageError> for Stop {
    fn from(error: ImageError) -> Self {
        Self::Final(error)
    }
}

impl<'a> Download<'a> {
    pub(super) fn new(
        target: &'a DownloadTarget,
        part: Part<'a>,
        settings: &'a Settings,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Self {
        let agent = client::agent(settings, target);
        Self { target, part, agent, settings, progress, begun: now() }
    }

    /// Downloads the file and puts it in its place.
    pub(super) fn run(mut self, expected: Option<Digest>) -> Result<(), ImageError> {
        let (role, url) = (self.target.role, self.target.url.clone());
        if let Err(error) = self.complete(expected.is_some()) {
            let useless = matches!(error, ImageError::TooLarge { .. });
            if useless || self.part.begun().is_none() {
                self.part.discard()?;
            }
            return Err(error);
        }
        let found = self.part.digest();
        match expected {
            Some(expected) if found != expected => {
                self.part.discard()?;
                let origin = url.to_string();
                Err(ImageError::Checksum { role, origin, downloaded: true, expected, found })
            }
            _ => self.part.finish(),
        }
    }

    /// Receives the missing part, over several connections if they break.
    fn complete(&mut self, checked: bool) -> Result<(), ImageError> {
        let mut breaks = 0;
        while !self.part.is_whole() {
            self.left()?;
            match self.attempt(checked) {
                Ok(()) => return Ok(()),
                Err(Stop::Final(error)) => return Err(error),
                Err(Stop::Break(source, total)) if breaks == self.settings.retries => {
                    let (role, url) = (self.target.role, self.target.url.clone());
                    let received = self.part.received();
                    return Err(ImageError::Broken { role, url, received, total, source });
                }
                Err(Stop::Break(error, _)) => {
                    tracing::info!(url = %self.target.url, error, "the connection broke");
                    pause(self.settings, breaks);
                    breaks += 1;
                }
            }
        }
        Ok(())
    }

    /// Returns the time that is left for the whole download.
    fn left(&self) -> Result<Duration, ImageError> {
        let limit = self.settings.whole;
        let left = limit.saturating_sub(now().duration_since(self.begun));
        if left.is_zero() {
            let (role, url) = (self.target.role, self.target.url.clone());
            return Err(ImageError::TooSlow { role, url, limit });
        }
        Ok(left)
    }

    /// Refuses an image of this size, if it is known.
    fn refuse_large(&self, total: Option<u64>) -> Result<(), ImageError> {
        let most = self.settings.most;
        let (role, url) = (self.target.role, self.target.url.clone());
        let large = total.is_some_and(|total| total > most);
        if large { Err(ImageError::TooLarge { role, url, most }) } else { Ok(()) }
    }

    fn attempt(&mut self, checked: bool) -> Result<(), Stop> {
        let (role, url) = (self.target.role, self.target.url.clone());
        let begun = self.part.begun();
        let mut response = self.ask(begun.as_ref())?;
        let mut verdict = answer::judge(begun.as_ref(), response.status(), response.headers());
        if verdict == Verdict::AskAnew {
            response = self.ask(None)?;
            verdict = answer::judge(None, response.status(), response.headers());
        }
        let total = match verdict {
            Verdict::Whole { total, validator } => {
                self.refuse_large(total)?;
                self.part.begin(total, validator, self.settings.spare)?;
                total
            }
            Verdict::Rest { total } => {
                self.refuse_large(total)?;
                self.part.reserve(total, self.settings.spare)?;
                total
            }
            Verdict::Endless if checked => {
                self.part.begin(None, None, self.settings.spare)?;
                None
            }
            Verdict::Endless => return Err(ImageError::UnknownLength { role, url }.into()),
            Verdict::AskAnew | Verdict::Refused => {
                let status = response.status();
                return Err(ImageError::Status { role, url, status }.into());
            }
        };
        self.receive(response, total)
    }

    fn ask(&self, begun: Option<&answer::Begun>) -> Result<Response<Body>, Stop> {
        let request = self.agent.get(self.target.url.as_str()).config();
        let mut request = request.timeout_global(Some(self.left()?)).build();
        if let Some(begun) = begun {
            request = request
                .header(header::RANGE, format!("bytes={}-", begun.received))
                .header(header::IF_RANGE, begun.validator.as_str());
        }
        request.call().map_err(|error| {
            if client::is_break(&error) {
                Stop::Break(error.into_io().into(), begun.and_then(|begun| begun.total))
            } else {
                self.refused(error)
            }
        })
    }

    fn refused(&self, error: ureq::Error) -> Stop {
        // The client's limit of the whole is ours.
        let late = self.left().err();
        Stop::Final(late.unwrap_or_else(|| client::refusal(self.settings, self.target, error)))
    }

    fn receive(&mut self, response: Response<Body>, total: Option<u64>) -> Result<(), Stop> {
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; CHUNK];
        let mut looked = self.part.received();
        loop {
            (self.progress)(Progress { received: self.part.received(), total, waiting: false });
            let length = match body.read(&mut buffer) {
                Ok(length) => length,
                Err(error) => return Err(self.broken(error.into(), total)),
            };
            if length == 0 {
                let missing = total.is_some_and(|total| self.part.received() < total);
                let ended = || Stop::Break("the server sent less than it said".into(), total);
                return if missing { Err(ended()) } else { Ok(()) };
            }
            self.part.append(buffer.get(..length).unwrap_or_default())?;
            self.refuse_large(Some(self.part.received()))?;
            if self.part.received() >= looked + LOOK {
                looked = self.part.received();
                self.part.refuse_full(self.settings.spare)?;
            }
            self.left()?;
            if let Some(stated) = total.filter(|total| *total < self.part.received()) {
                let (role, url) = (self.target.role, self.target.url.clone());
                return Err(ImageError::Length { role, url, stated }.into());
            }
        }
    }

    /// Classifies an error in the middle of a file. A server that fell silent may answer on another connection.
    fn broken(&self, error: ureq::Error, total: Option<u64>) -> Stop {
        if client::is_silence(&error) {
            let limit = self.settings.silence;
            Stop::Break(format!("no data within {limit:?}").into(), total)
        } else if client::is_break(&error) {
            Stop::Break(error.into_io().into(), total)
        } else {
            self.refused(error)
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a download takes is measured here")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "no event tells that a server is well again")]
fn pause(settings: &Settings, breaks: u32) {
    thread::sleep(settings.pause.saturating_mul(1 << breaks.min(10)));
}
