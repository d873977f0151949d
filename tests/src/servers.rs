//! Third-party object stores for the long suite: installed by their own clients, started on loopback, each with an empty bucket `bucket`.
//!
//! They are kept in `servers/` below `CM3FLOW_CACHE`, or below the system's folder for temporary files.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, thread};

use tempfile::TempDir;

use crate::tools::tool;

/// Default account and key of Azurite, from its documentation.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running server; dropping it kills the server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Files of the server, unless it keeps everything in memory.
    _files: Option<TempDir>,
    /// Address of a store on the server.
    pub address: &'static str,
    /// The `[store]` section for the server.
    pub section: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts Azurite, Microsoft's emulator of Azure's blob storage, installed by npm; `None` if `test` is to be skipped.
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
            _files: None,
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

    /// Starts Moto, an emulator of AWS in Python, installed by pip; `None` if `test` is to be skipped.
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
            _files: None,
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

    /// Starts Garage, a self-hosted object store, built by Cargo in about a quarter of an hour once; `None` if `test` is to be skipped.
    ///
    /// # Panics
    /// If it cannot be installed or started.
    #[must_use]
    pub fn garage(test: &str) -> Option<Self> {
        let cargo = tool(test, &["cargo"])?;
        let folder = folder("garage-2.5.0");
        let program = folder.join("bin/garage");
        if !program.is_file() {
            let crate_ = ["install", "garage", "--version", "2.5.0", "--locked", "--quiet", "--root"];
            let features = ["--no-default-features", "--features", "bundled-libs,sqlite"];
            // It is built as published, without settings of this workspace.
            done(Command::new(cargo).args(crate_).arg(&folder).args(features).current_dir(&folder).env_remove("CARGO_TARGET_DIR"));
        }
        let files = tempfile::tempdir().expect("a folder for temporary files");
        let [meta, objects, config] = ["meta", "objects", "garage.toml"].map(|name| files.path().join(name));
        let (port, rpc_port) = (free_port(), free_port());
        let (key, secret) = (format!("GK{}", "0123456789ab".repeat(2)), "01234567".repeat(8));
        let text = format!(
            r#"metadata_dir = "{}"
data_dir = "{}"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{rpc_port}"
rpc_public_addr = "127.0.0.1:{rpc_port}"
rpc_secret = "{secret}"
[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:{port}"
"#,
            meta.display(),
            objects.display()
        );
        std::fs::write(&config, text).expect("the folder is ours");
        let names = [("GARAGE_DEFAULT_BUCKET", "bucket"), ("GARAGE_DEFAULT_ACCESS_KEY", &*key), ("GARAGE_DEFAULT_SECRET_KEY", &*secret)];
        let arguments = ["server", "--single-node", "--default-bucket"];
        let child = started(Command::new(program).arg("-c").arg(&config).args(arguments).envs(names), port);
        Some(Self {
            child,
            _files: Some(files),
            address: "s3://bucket/data",
            section: format!(
                "[store]\nendpoint = \"http://127.0.0.1:{port}\"\nallow_http = true\nregion = \"garage\"\n[store.options]\naccess_key_id = \"{key}\"\nsecret_access_key = \"{secret}\"\n"
            ),
        })
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
