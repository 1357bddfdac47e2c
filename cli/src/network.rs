//! `koya network`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use koya_sandbox::network::{Cidr, Network, NewNetwork, Subnet};
use serde_json::json;

use crate::args::{ListArgs, NamesArgs, NetworkCommand};
use crate::error::CliError;
use crate::home::Home;
use crate::show::{self, Form};

/// `koya network`
///
/// # Errors
/// [`CliError`]
pub fn network(command: &NetworkCommand) -> Result<ExitCode, CliError> {
    match command {
        NetworkCommand::Ls(args) => list(args),
        NetworkCommand::Inspect(args) => inspect(args),
        NetworkCommand::Rm(args) => remove(args),
        NetworkCommand::Create {
            subnet,
            gateway,
            internal,
            disable_dns,
            opt,
            name,
        } => {
            let mut subnets = Vec::new();
            for (index, text) in subnet.iter().enumerate() {
                let range: Cidr = text.parse()?;
                subnets.push((range, gateway.filter(|_| index == 0)));
            }
            let option = |text: &String| match text.split_once('=') {
                Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
                None => Err(CliError::Pair("--opt", text.clone())),
            };
            let made = Home::find()?.networks()?.create(NewNetwork {
                name: name.clone(),
                subnets,
                internal: *internal,
                no_dns: *disable_dns,
                options: opt.iter().map(option).collect::<Result<BTreeMap<_, _>, _>>()?,
            })?;
            crate::print(&made.name)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn list(args: &ListArgs) -> Result<ExitCode, CliError> {
    let form = Form::parse(&args.format)?;
    let networks = Home::find()?.networks()?.list()?;
    if args.quiet {
        for network in &networks {
            crate::print(&network.name)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let lines: Vec<_> = networks
        .iter()
        .map(|network| {
            json!({
                "Name": network.name,
                "Driver": "bridge",
                "Subnets": subnets(network),
                "Internal": network.internal,
                "Bridge": network.interface,
            })
        })
        .collect();
    let columns = [
        ("NAME", "Name"),
        ("DRIVER", "Driver"),
        ("SUBNETS", "Subnets"),
        ("INTERNAL", "Internal"),
        ("BRIDGE", "Bridge"),
    ];
    show::list(&form, columns, &lines)?;
    Ok(ExitCode::SUCCESS)
}

fn subnets(network: &Network) -> String {
    let subnets = network
        .subnets
        .iter()
        .map(|Subnet { subnet, .. }| subnet.to_string());
    subnets.collect::<Vec<_>>().join(",")
}

fn inspect(args: &NamesArgs) -> Result<ExitCode, CliError> {
    let networks = Home::find()?.networks()?;
    let mut code = ExitCode::SUCCESS;
    let mut all = Vec::new();
    for name in &args.names {
        let found = networks.inspect(name).and_then(|network| {
            let users = networks.users(name)?;
            Ok(json!({ "Network": network, "Containers": users }))
        });
        match found {
            Ok(found) => all.push(found),
            Err(error) => {
                crate::complain(&error.into());
                code = ExitCode::FAILURE;
            }
        }
    }
    crate::print(&serde_json::to_string_pretty(&all).map_err(std::io::Error::from)?)?;
    Ok(code)
}

fn remove(args: &NamesArgs) -> Result<ExitCode, CliError> {
    let networks = Home::find()?.networks()?;
    let mut code = ExitCode::SUCCESS;
    for name in &args.names {
        match networks.remove(name) {
            Ok(()) => crate::print(name)?,
            Err(error) => {
                crate::complain(&error.into());
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}
