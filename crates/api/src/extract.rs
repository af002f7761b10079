//! Paths, query parameters and bodies, with refusals that name what is at fault.

use std::fmt::Display;
use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use gantry_core::JobId;
use gantry_core::problem::Code;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// The largest body of a request, in bytes. A thousand jobs of ordinary size fit; a thousand of the largest do not.
pub(crate) const BODY_BYTES: usize = 32 * 1024 * 1024;

/// A job's id in a path. What is no id names no job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobPath(pub(crate) JobId);

impl<S: Send + Sync> FromRequestParts<S> for JobPath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Ok(Path(text)) = Path::<String>::from_request_parts(parts, state).await else {
            return Err(Error::new(Code::NotFound, "the job's id is not readable text"));
        };
        text.parse().map(Self).map_err(|_| no_job(&text))
    }
}

/// The refusal for a job that does not exist or belongs to another tenant: nobody may tell which.
pub(crate) fn no_job(id: impl Display) -> Error {
    Error::new(Code::NotFound, format!("there is no job {id}"))
}

/// Query parameters, taken one by one. What is left over was misspelt.
#[derive(Debug)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(rejection) => Err(Error::new(Code::InvalidField, rejection.body_text())),
        }
    }
}

impl Parameters {
    /// Every value of a parameter that may be repeated or hold a list with commas.
    pub(crate) fn all<T>(&mut self, name: &str) -> Result<Vec<T>>
    where
        T: FromStr,
        T::Err: Display,
    {
        let (taken, rest) = std::mem::take(&mut self.0).into_iter().partition(|(key, _)| key == name);
        self.0 = rest;
        let taken: Vec<(String, String)> = taken;
        let words = taken.iter().flat_map(|(_, value)| value.split(',')).filter(|word| !word.is_empty());
        words.map(|word| parse(name, word)).collect()
    }

    /// A parameter that is given at most once.
    pub(crate) fn one<T>(&mut self, name: &str) -> Result<Option<T>>
    where
        T: FromStr,
        T::Err: Display,
    {
        let Some(index) = self.0.iter().position(|(key, _)| key == name) else { return Ok(None) };
        let (_, value) = self.0.remove(index);
        if self.0.iter().any(|(key, _)| key == name) {
            return Err(Error::field(Code::InvalidField, name, "give it once"));
        }
        parse(name, &value).map(Some)
    }

    /// A number of items, from 1 to `max`.
    pub(crate) fn limit(&mut self, default: i64, max: i64) -> Result<i64> {
        let limit = self.one("limit")?.unwrap_or(default);
        if !(1..=max).contains(&limit) {
            return Err(Error::field(Code::InvalidField, "limit", format!("must be 1 to {max}, not {limit}")));
        }
        Ok(limit)
    }

    /// Refuses what nobody took.
    pub(crate) fn finish(self) -> Result<()> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => {
                let message = format!("there is no query parameter `{name}` here");
                Err(Error::field(Code::InvalidField, name, message))
            }
        }
    }
}

pub(crate) fn parse<T>(name: &str, text: &str) -> Result<T>
where
    T: FromStr,
    T::Err: Display,
{
    if text.contains('\0') {
        return Err(Error::field(Code::InvalidField, name, "text cannot contain NUL"));
    }
    text.parse().map_err(|error| Error::field(Code::InvalidField, name, format!("{text:?} is not valid: {error}")))
}

/// The body as it came. The media type is not looked at: there is only JSON here, and `curl -d` says otherwise.
#[derive(Debug)]
pub(crate) struct Body(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        match Bytes::from_request(request, state).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Error::new(Code::TooLarge, format!("a request has at most {BODY_BYTES} bytes")))
            }
            Err(_) => Err(Error::new(Code::InvalidJson, "the body did not arrive whole")),
        }
    }
}

impl Body {
    /// The body as a `T`; a refusal names the field.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        let value: serde_json::Value = serde_json::from_slice(&self.0).map_err(not_json)?;
        serde_path_to_error::deserialize(value).map_err(|error| {
            let (path, message) = (error.path().to_string(), error.inner().to_string());
            match path.as_str() {
                "." => Error::new(Code::InvalidField, message),
                _ => Error::field(Code::InvalidField, path, message),
            }
        })
    }
}

pub(crate) fn not_json(error: serde_json::Error) -> Error {
    Error::new(Code::InvalidJson, format!("the body is not JSON: {error}"))
}
