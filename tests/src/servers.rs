//! Object stores that others wrote, for the long suite: installed by their own clients, started on loopback, each with an empty bucket `bucket`.
//!
//! They are kept in `servers/` of the folder that `CM3FLOW_CACHE` names, or of the system's folder for temporary files.

use std::env;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::tools::tool;

/// The account and key that Azurite is born with, which its documentation gives.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running server; it is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Address of a store in it.
    pub address: &'static str,
    /// The `[store]` section that reaches it.
    pub section: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Azurite, Microsoft's own stand-in for Azure's blob storage, by npm; `None` if `test` is to be skipped.
    ///
    /// # Panics
    /// If it cannot be installed or started.
    #[must_use]
    pub fn azurite(test: &str) -> Option<Self> {
        let (node, npm) = (tool(test, &["node"])?, tool(test, &["npm"])?);
        let folder = folder("azurite-3.35.0");
        if !folder.join("node_modules/azurite").is_dir() {
            let packages = ["azurite@3.35.0", "@azure/storage-blob@12"];
            done(Command::new(npm).args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(&folder).args(packages));
        }
        let port = free_port();
        let script = folder.join("node_modules/azurite/dist/src/blob/main.js");
        let arguments =
            ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent", "--blobHost", "127.0.0.1", "--blobPort"];
        let child = started(Command::new(&node).arg(script).args(arguments).arg(port.to_string()), port);
        let endpoint = format!("http://127.0.0.1:{port}/{AZURITE_ACCOUNT}");
        let server = Self {
            child,
            address: "az://bucket/data",
            section: format!(
                "[store]\nendpoint = \"{endpoint}\"\nallow_http = true\n[store.options]\nazure_storage_account_name = \"{AZURITE_ACCOUNT}\"\nazure_storage_account_key = \"{AZURITE_KEY}\"\n"
            ),
        };
        let connection =
            format!("DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};BlobEndpoint={endpoint};");
        let create = "require('@azure/storage-blob').BlobServiceClient.fromConnectionString(process.argv[1]).createContainer('bucket')";
        done(Command::new(node).args(["-e", create, &connection]).current_dir(&folder));
        Some(server)
    }

    /// Moto, a stand-in for AWS that is written in Python, by pip; `None` if `test` is to be skipped.
    ///
    /// # Panics
    /// If it cannot be installed or started.
    #[must_use]
    pub fn moto(test: &str) -> Option<Self> {
        let python = tool(test, &["python3"])?;
        let folder = folder("moto-5.2.5");
        if !folder.join("bin/moto_server").is_file() {
            done(Command::new(python).args(["-m", "venv"]).arg(&folder));
            done(Command::new(folder.join("bin/pip")).args(["install", "--quiet", "moto[server]==5.2.5"]));
        }
        let port = free_port();
        let child = started(Command::new(folder.join("bin/moto_server")).args(["-H", "127.0.0.1", "-p", &port.to_string()]), port);
        let endpoint = format!("http://127.0.0.1:{port}");
        let server = Self {
            child,
            address: "s3://bucket/data",
            section: format!(
                "[store]\nendpoint = \"{endpoint}\"\nallow_http = true\n[store.options]\naccess_key_id = \"any\"\nsecret_access_key = \"any\"\n"
            ),
        };
        let create = format!(
            "import boto3; boto3.client('s3', endpoint_url='{endpoint}', region_name='us-east-1', aws_access_key_id='any', aws_secret_access_key='any').create_bucket(Bucket='bucket')"
        );
        done(Command::new(folder.join("bin/python")).args(["-c", &create]));
        Some(server)
    }
}

fn folder(name: &str) -> PathBuf {
    let cache = env::var_os("CM3FLOW_CACHE").map_or_else(|| env::temp_dir().join("cm3flow"), PathBuf::from);
    let folder = cache.join("servers").join(name);
    std::fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    folder
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
    listener.local_addr().expect("it is bound").port()
}

/// Runs a command that must succeed.
fn done(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Starts a server and waits until it listens.
fn started(command: &mut Command, port: u16) -> Child {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    for _ in 0..300 {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return child;
        }
        assert!(child.try_wait().expect("ours").is_none(), "{command:?} ended at once");
        thread::sleep(Duration::from_millis(200));
    }
    let _ = child.kill();
    panic!("{command:?} does not listen on port {port}");
}
