//! The service's calls, as ttRPC has them.

use ttrpc::{Result, TtrpcContext};

use super::{Tasks, metrics};
use crate::error::TaskError;
use crate::generated::task::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest,
    StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest,
    WaitResponse,
};
use crate::generated::task_ttrpc::Task;
use crate::time::stamp;

impl Task for Tasks {
    fn state(&self, _: &TtrpcContext, request: StateRequest) -> Result<StateResponse> {
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let seen = process.seen();
        let wanted = process.wanted.clone();
        Ok(StateResponse {
            id: request.id,
            exec_id: request.exec_id,
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: seen.pid,
            status: seen.status.to_message().into(),
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
            terminal: wanted.terminal,
            exit_status: seen.exit.map_or(0, |exit| exit.status),
            exited_at: seen.exit.map(|exit| stamp(exit.at)).into(),
            ..Default::default()
        })
    }

    fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> Result<CreateTaskResponse> {
        let pid = Tasks::create(self, &request)?;
        Ok(CreateTaskResponse {
            pid,
            ..Default::default()
        })
    }

    fn start(&self, _: &TtrpcContext, request: StartRequest) -> Result<StartResponse> {
        let pid = match request.exec_id.as_str() {
            "" => Tasks::start(self, &request.id)?,
            exec => self.start_exec(&request.id, exec)?,
        };
        Ok(StartResponse {
            pid,
            ..Default::default()
        })
    }

    fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Result<DeleteResponse> {
        let (pid, exit) = Tasks::delete(self, &request.id, &request.exec_id)?;
        Ok(DeleteResponse {
            pid,
            exit_status: exit.status,
            exited_at: Some(stamp(exit.at)).into(),
            ..Default::default()
        })
    }

    fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Result<PidsResponse> {
        let pids = self.container(&request.id)?.pids().into_iter();
        let processes = pids.map(|pid| ProcessInfo {
            pid,
            ..Default::default()
        });
        Ok(PidsResponse {
            processes: processes.collect(),
            ..Default::default()
        })
    }

    fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Result<Empty> {
        self.freeze(&request.id, true)?;
        Ok(Empty::default())
    }

    fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Result<Empty> {
        self.freeze(&request.id, false)?;
        Ok(Empty::default())
    }

    fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> Result<Empty> {
        Err(TaskError::Unsupported("no checkpoint is made of a container").into())
    }

    fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Result<Empty> {
        Tasks::kill(self, &request)?;
        Ok(Empty::default())
    }

    fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Result<Empty> {
        self.add(&request)?;
        Ok(Empty::default())
    }

    fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Result<Empty> {
        let process = self.process(&request.id, &request.exec_id)?;
        process.with_streams(|held| match held.terminal() {
            Some(terminal) => terminal.resize(request.width, request.height),
            // It has none yet, or has none any more.
            None => Ok(()),
        })?;
        Ok(Empty::default())
    }

    fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Result<Empty> {
        let process = self.process(&request.id, &request.exec_id)?;
        if request.stdin {
            process.close_stdin();
        }
        Ok(Empty::default())
    }

    fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> Result<Empty> {
        Tasks::update(self, &request)?;
        Ok(Empty::default())
    }

    fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Result<WaitResponse> {
        let exit = Tasks::wait(self, &request.id, &request.exec_id)?;
        Ok(WaitResponse {
            exit_status: exit.status,
            exited_at: Some(stamp(exit.at)).into(),
            ..Default::default()
        })
    }

    fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Result<StatsResponse> {
        let container = self.container(&request.id)?;
        let event = self.runtime.stats(&container.bundle, &request.id)?;
        Ok(StatsResponse {
            stats: Some(metrics::of(&event)).into(),
            ..Default::default()
        })
    }

    fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> Result<ConnectResponse> {
        let task_pid = self.container(&request.id)?.first.seen().pid;
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            ..Default::default()
        })
    }

    fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> Result<Empty> {
        self.shut_down();
        Ok(Empty::default())
    }
}
