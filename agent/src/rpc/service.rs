//! `koya.agent.v1.Agent`: from messages to what does the work, and back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use koya_proto::error::{AgentError, ErrorKind};
use koya_proto::{PROTOCOL_MAJOR, PROTOCOL_MINOR, v1};
use protobuf::MessageField;
use ttrpc::TtrpcContext;

use super::Power;
use crate::containers::Containers;
use crate::copy;
use crate::error::invalid;
use crate::guest;
use crate::network;
use crate::streams::Size;
use crate::sys::Deadline;

/// Deadline of requests that name none, Wait excepted.
const DEADLINE: Duration = Duration::from_secs(60);

/// The service.
pub struct Service {
    containers: Arc<Containers>,
    power: Power,
    started: Instant,
}

impl Service {
    /// Over the guest's containers.
    pub fn new(containers: Arc<Containers>, power: Power) -> Self {
        let started = Instant::now();
        Self {
            containers,
            power,
            started,
        }
    }
}

type Answer<T> = ttrpc::Result<T>;

fn timeout(context: &TtrpcContext) -> Option<Duration> {
    u64::try_from(context.timeout_nano)
        .ok()
        .filter(|&nanoseconds| nanoseconds > 0)
        .map(Duration::from_nanos)
}

fn deadline(context: &TtrpcContext) -> Deadline {
    Deadline::after(timeout(context).unwrap_or(DEADLINE))
}

fn empty() -> Answer<v1::Empty> {
    Ok(v1::Empty::new())
}

impl v1::Agent for Service {
    fn version(&self, _: &TtrpcContext, request: v1::VersionRequest) -> Answer<v1::VersionResponse> {
        let theirs = request.protocol_major;
        if theirs != PROTOCOL_MAJOR {
            let message = format!(
                "this agent speaks version {PROTOCOL_MAJOR} of the protocol; the client speaks {theirs}"
            );
            return Err(AgentError::new(ErrorKind::ERROR_KIND_VERSION, message).into());
        }
        Ok(v1::VersionResponse {
            protocol_major: PROTOCOL_MAJOR,
            protocol_minor: PROTOCOL_MINOR,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    fn health(&self, _: &TtrpcContext, _: v1::HealthRequest) -> Answer<v1::HealthResponse> {
        Ok(v1::HealthResponse {
            uptime_ns: u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            containers: u32::try_from(self.containers.all().len()).unwrap_or(u32::MAX),
            ..Default::default()
        })
    }

    fn details(&self, _: &TtrpcContext, _: v1::DetailsRequest) -> Answer<v1::DetailsResponse> {
        Ok(guest::details()?)
    }

    fn set_clock(&self, _: &TtrpcContext, request: v1::SetClockRequest) -> Answer<v1::Empty> {
        guest::set_clock(request.seconds, request.nanoseconds)?;
        empty()
    }

    fn reseed(&self, _: &TtrpcContext, request: v1::ReseedRequest) -> Answer<v1::Empty> {
        guest::reseed(&request.entropy)?;
        empty()
    }

    fn shutdown(&self, _: &TtrpcContext, request: v1::ShutdownRequest) -> Answer<v1::Empty> {
        let kind = request
            .kind
            .enum_value()
            .map_err(|number| invalid(format!("no kind of shutdown has number {number}")))?;
        (self.power)(kind)?;
        empty()
    }

    fn create(&self, context: &TtrpcContext, request: v1::CreateRequest) -> Answer<v1::CreateResponse> {
        let pid = self.containers.create(&request, deadline(context))?;
        Ok(v1::CreateResponse {
            pid,
            ..Default::default()
        })
    }

    fn start(&self, context: &TtrpcContext, request: v1::StartRequest) -> Answer<v1::Empty> {
        self.containers.start(&request.id, deadline(context))?;
        empty()
    }

    fn state(&self, _: &TtrpcContext, request: v1::StateRequest) -> Answer<v1::ContainerState> {
        Ok(self.containers.get(&request.id)?.state())
    }

    fn list(&self, _: &TtrpcContext, _: v1::ListRequest) -> Answer<v1::ListResponse> {
        let containers = self
            .containers
            .all()
            .iter()
            .map(|container| container.state())
            .collect();
        Ok(v1::ListResponse {
            containers,
            ..Default::default()
        })
    }

    fn pause(&self, context: &TtrpcContext, request: v1::PauseRequest) -> Answer<v1::Empty> {
        self.containers.get(&request.id)?.pause(deadline(context))?;
        empty()
    }

    fn resume(&self, context: &TtrpcContext, request: v1::ResumeRequest) -> Answer<v1::Empty> {
        self.containers.get(&request.id)?.resume(deadline(context))?;
        empty()
    }

    fn stats(&self, _: &TtrpcContext, request: v1::StatsRequest) -> Answer<v1::StatsResponse> {
        Ok(self.containers.get(&request.id)?.stats())
    }

    fn delete(&self, context: &TtrpcContext, request: v1::DeleteRequest) -> Answer<v1::Empty> {
        self.containers
            .delete(&request.id, request.force, request.purge, deadline(context))?;
        empty()
    }

    fn exec(&self, context: &TtrpcContext, request: v1::ExecRequest) -> Answer<v1::ExecResponse> {
        let pid = self.containers.exec(&request, deadline(context))?;
        Ok(v1::ExecResponse {
            pid,
            ..Default::default()
        })
    }

    fn signal(&self, _: &TtrpcContext, request: v1::SignalRequest) -> Answer<v1::Empty> {
        let container = self.containers.get(&request.id)?;
        container.signal(&request.exec_id, request.signal, request.all)?;
        empty()
    }

    fn wait(&self, context: &TtrpcContext, request: v1::WaitRequest) -> Answer<v1::WaitResponse> {
        let deadline = timeout(context).map_or(Deadline::NONE, Deadline::after);
        let exit = self.containers.wait(&request.id, &request.exec_id, deadline)?;
        Ok(v1::WaitResponse {
            exit: MessageField::some(exit),
            ..Default::default()
        })
    }

    fn resize(&self, _: &TtrpcContext, request: v1::ResizeRequest) -> Answer<v1::Empty> {
        let size = Size::from_message(request.size.get_or_default())?;
        self.containers
            .get(&request.id)?
            .process(&request.exec_id)?
            .resize(size)?;
        empty()
    }

    fn update(&self, _: &TtrpcContext, request: v1::UpdateRequest) -> Answer<v1::Empty> {
        self.containers.get(&request.id)?.update(&request.resources)?;
        empty()
    }

    fn configure_network(
        &self,
        context: &TtrpcContext,
        request: v1::ConfigureNetworkRequest,
    ) -> Answer<v1::Empty> {
        network::configure(&self.containers, &request, deadline(context))?;
        empty()
    }

    fn dial(&self, context: &TtrpcContext, request: v1::DialRequest) -> Answer<v1::Empty> {
        network::dial(&self.containers, &request, deadline(context))?;
        empty()
    }

    fn serve_names(&self, context: &TtrpcContext, request: v1::ServeNamesRequest) -> Answer<v1::Empty> {
        network::serve_names(&self.containers, &request, deadline(context))?;
        empty()
    }

    fn stat_path(
        &self,
        context: &TtrpcContext,
        request: v1::StatPathRequest,
    ) -> Answer<v1::StatPathResponse> {
        Ok(copy::stat_path(&self.containers, &request, deadline(context))?)
    }

    fn copy_in(&self, context: &TtrpcContext, request: v1::CopyInRequest) -> Answer<v1::Empty> {
        let deadline = timeout(context).map_or(Deadline::NONE, Deadline::after);
        copy::copy_in(&self.containers, &request, deadline)?;
        empty()
    }

    fn copy_out(&self, context: &TtrpcContext, request: v1::CopyOutRequest) -> Answer<v1::Empty> {
        let deadline = timeout(context).map_or(Deadline::NONE, Deadline::after);
        copy::copy_out(&self.containers, &request, deadline)?;
        empty()
    }
}
