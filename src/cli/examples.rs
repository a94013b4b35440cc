//! The examples under `--help`. Each is a line that works as it stands, given the files it names.

pub const TOP: &str = "\
Examples:
  headend demo                                       watch it work in a browser
  headend check -c headend.toml                      is the configuration right?
  headend run -c headend.toml                        work

Exit codes: 0 done, 1 failed at work, 2 usage, 75 try again later (folder in use, port taken),
78 configuration or SQL, 130 Ctrl-C.";

pub const RUN: &str = "\
Examples:
  headend run -c headend.toml
  HEADEND_GATEWAY_LISTEN=127.0.0.1:9000 headend run -c headend.toml
  headend --log info,ingest=debug --log-style json run
  headend run --from-beginning

A job whose SQL was changed goes on with the state that it has where that fits; `headend check` says what a change would do. Where it
does not fit, nothing is touched, and --from-beginning builds the job anew while the one before goes on serving.";

pub const TRY: &str = "\
Examples:
  headend try job.sql --input payment=payments.jsonl --output revenue
  headend try job.sql --input payment=retail.csv.gz --mapping payment=mapping.sql --output revenue --final
  headend try job.sql --input payment=payments.jsonl --output revenue --partitions 4 --cut-rows 97 --crash-every 50

Rows are printed as JSON Lines; the counts go to standard error, and as JSON to --report.";

pub const DEMO: &str = "\
Examples:
  headend demo
  headend demo --duration 30s --seed 7 --report report.json
  headend demo --port 9000 --rate 1000 --dir demo-data
  headend demo --kafka localhost:9092";

pub const IMPORT: &str = "\
Examples:
  headend import payments.csv --event payment --dir data
  headend import retail.csv.gz --event payment --mapping mapping.sql --to http://127.0.0.1:8080 --speed 3600 --close
  headend import payments.csv --event payment -c headend.toml --from-line 120001

Rows that cannot be taken are written with line and reason to <FILE>.errors.jsonl; the others pass.";

pub const TOPICS: &str = "\
Examples:
  headend topics apply -c headend.toml
  headend topics apply -c headend.toml --json
  headend topics check -c headend.toml";

pub const TASKS: &str = "\
Examples:
  headend tasks -c headend.toml
  headend tasks -c headend.toml --json";

pub const SKIP: &str = "\
Examples:
  headend skip usage.v1/2 -c headend.toml            after retention has deleted what a task had not read yet";

pub const CHECK: &str = "\
Examples:
  headend check -c headend.toml
  headend check -c headend.toml --json
  headend check --settings                           the table of all settings, as Markdown";

pub const EXPLAIN: &str = "\
Examples:
  headend explain job.sql
  headend explain job.sql --json
  headend explain --why usage_1m                     which input holds it back, and since when
  headend explain --why usage_1m --at http://10.0.0.7:8080 --at http://10.0.0.8:8080";

pub const SCHEMA: &str = "\
Examples:
  headend schema                                     all event types
  headend schema payment                             its fields
  headend schema payment --sql                       ready to paste into a job
  headend schema payment --sample                    ready to send to POST /v1/events/payment";

pub const TOKEN: &str = "\
Examples:
  headend token --tenant acme --role admin -c headend.toml
  headend token --tenant acme --role subscriber --subscriber s-17 --ttl 15m";
