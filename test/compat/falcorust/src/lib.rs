//! A Falco plugin in Rust for tests, built with the SDK `falco_plugin`. It counts. Every feature
//! that the SDK has and a host without tables can serve is used once.

use falco_event::types::{IpNet, SystemTime};
use falco_plugin::anyhow::{anyhow, bail, Error};
use falco_plugin::async_event::{AsyncEventPlugin, AsyncHandler};
use falco_plugin::base::{Json, Metric, MetricLabel, MetricType, MetricValue, Plugin};
use falco_plugin::event::events::Event;
use falco_plugin::event::PluginEvent;
use falco_plugin::extract::{field, EventInput, ExtractByteRange, ExtractFieldInfo, ExtractPlugin, ExtractRequest};
use falco_plugin::schemars::JsonSchema;
use falco_plugin::serde::Deserialize;
use falco_plugin::source::{serialize_open_params, EventBatch, OpenParam, ProgressInfo, SourcePlugin, SourcePluginInstance};
use falco_plugin::tables::TablesInput;
use falco_plugin::{async_event_plugin, extract_plugin, plugin, source_plugin, FailureReason};
use std::ffi::{CStr, CString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread::JoinHandle;
use std::time::Duration;

#[derive(JsonSchema, Deserialize)]
#[schemars(crate = "falco_plugin::schemars")]
#[serde(crate = "falco_plugin::serde", deny_unknown_fields)]
struct Config {
    /// By how much it counts.
    #[serde(default = "one")]
    step: u64,
}

fn one() -> u64 {
    1
}

struct Rustbed {
    step: u64,
    counted: u64,
    open_params: CString,
    ticker: Option<JoinHandle<Result<(), Error>>>,
}

impl Plugin for Rustbed {
    const NAME: &'static CStr = c"rustbed";
    const PLUGIN_VERSION: &'static CStr = c"0.1.0";
    const DESCRIPTION: &'static CStr = c"counts, in Rust";
    const CONTACT: &'static CStr = c"nobody";
    type ConfigType = Json<Config>;

    fn new(tables: Option<&TablesInput>, Json(config): Self::ConfigType) -> Result<Self, Error> {
        log::set_max_level(log::LevelFilter::Trace);
        let Some(tables) = tables else { bail!("there is no access to tables") };
        if !tables.list_tables().is_empty() {
            bail!("there are tables")
        }
        if config.step == 13 {
            bail!("13 is no step")
        }
        log::warn!("the step is {}", config.step);
        Ok(Self { step: config.step, counted: 0, open_params: CString::default(), ticker: None })
    }

    fn set_config(&mut self, Json(config): Self::ConfigType) -> Result<(), Error> {
        if config.step == 13 {
            bail!("13 is still no step")
        }
        self.step = config.step;
        Ok(())
    }

    fn get_metrics(&mut self) -> impl IntoIterator<Item = Metric> {
        [
            Metric::new(MetricLabel::new(c"counted", MetricType::Monotonic), MetricValue::U64(self.counted)),
            Metric::new(MetricLabel::new(c"depth", MetricType::NonMonotonic), MetricValue::S32(-3)),
            Metric::new(MetricLabel::new(c"ratio", MetricType::NonMonotonic), MetricValue::Double(0.25)),
        ]
    }
}

struct Counter {
    next: u64,
    last: u64,
    paused: bool,
    detail: CString,
}

impl SourcePlugin for Rustbed {
    type Instance = Counter;
    const EVENT_SOURCE: &'static CStr = c"rust_source";
    const PLUGIN_ID: u32 = 1_073_742_003;
    type Event<'a> = Event<PluginEvent<&'a [u8]>>;

    fn list_open_params(&mut self) -> Result<&CStr, Error> {
        serialize_open_params(
            &[
                OpenParam::Item { value: "10", desc: "up to ten" },
                OpenParam::Seq { values: &["1", "2"], desc: "several", separator: ',' },
            ],
            &mut self.open_params,
        )
    }

    fn open(&mut self, params: Option<&str>) -> Result<Counter, Error> {
        let params = params.unwrap_or_default();
        if params == "panic" {
            panic!("told to panic")
        }
        let last = params.parse().map_err(|_| anyhow!("{params:?} is no number"))?;
        Ok(Counter { next: 1, last, paused: false, detail: CString::default() })
    }

    fn event_to_string(&mut self, event: &EventInput<Self::Event<'_>>) -> Result<CString, Error> {
        Ok(CString::new(event.event()?.params.event_data)?)
    }
}

impl SourcePluginInstance for Counter {
    type Plugin = Rustbed;

    fn next_batch(&mut self, plugin: &mut Rustbed, batch: &mut EventBatch) -> Result<(), Error> {
        if self.next > self.last {
            return Err(anyhow!("counted up to {}", self.last).context(FailureReason::Eof));
        }
        if !self.paused && self.next > 1 {
            self.paused = true; // nothing now, once
            return Err(anyhow!("later").context(FailureReason::Timeout));
        }
        for _ in 0..100.min(self.last - self.next + 1) {
            let text = format!("number {}", self.next * plugin.step);
            batch.add(Self::plugin_event(text.as_bytes()))?;
            self.next += 1;
            plugin.counted += 1;
        }
        Ok(())
    }

    fn get_progress(&mut self) -> ProgressInfo<'_> {
        self.detail = CString::new(format!("{} of {}", self.next - 1, self.last)).unwrap_or_default();
        ProgressInfo { value: (self.next - 1) as f64 * 100.0 / self.last.max(1) as f64, detail: Some(&self.detail) }
    }
}

impl Rustbed {
    fn text(&mut self, req: ExtractRequest<Self>) -> Result<CString, Error> {
        let event = req.event.event()?;
        *req.offset = ExtractByteRange::in_plugin_data(0..event.params.event_data.len());
        Ok(CString::new(event.params.event_data)?)
    }

    fn number(&mut self, req: ExtractRequest<Self>) -> Result<Option<u64>, Error> {
        let event = req.event.event()?;
        let text = std::str::from_utf8(event.params.event_data)?;
        Ok(text.rsplit(' ').next().and_then(|n| n.parse().ok()))
    }

    fn odd(&mut self, req: ExtractRequest<Self>) -> Result<bool, Error> {
        Ok(self.number(req)?.unwrap_or_default() % 2 == 1)
    }

    fn words(&mut self, req: ExtractRequest<Self>, at: Option<u64>) -> Result<Vec<CString>, Error> {
        let event = req.event.event()?;
        let all = event.params.event_data.split(|b| *b == b' ').map(CString::new);
        Ok(match at {
            Some(at) => all.skip(at as usize).take(1).collect::<Result<_, _>>()?,
            None => all.collect::<Result<_, _>>()?,
        })
    }

    fn echo(&mut self, _: ExtractRequest<Self>, key: &CStr) -> Result<CString, Error> {
        Ok(key.to_owned())
    }

    fn took(&mut self, _: ExtractRequest<Self>) -> Result<Duration, Error> {
        Ok(Duration::from_millis(1500))
    }

    fn began(&mut self, _: ExtractRequest<Self>) -> Result<SystemTime, Error> {
        Ok(SystemTime(1_700_000_000_000_000_000))
    }

    fn addresses(&mut self, _: ExtractRequest<Self>) -> Result<Vec<IpAddr>, Error> {
        Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
    }

    fn network(&mut self, _: ExtractRequest<Self>) -> Result<IpNet, Error> {
        Ok(IpNet(Ipv4Addr::new(10, 0, 0, 0).into()))
    }

    fn fails(&mut self, _: ExtractRequest<Self>) -> Result<u64, Error> {
        bail!("it never has a value")
    }
}

impl ExtractPlugin for Rustbed {
    type Event<'a> = Event<PluginEvent<&'a [u8]>>;
    type ExtractContext = ();
    const EXTRACT_FIELDS: &'static [ExtractFieldInfo<Self>] = &[
        field("rust.text", &Self::text).with_display("Text").with_description("the payload").add_output(),
        field("rust.number", &Self::number),
        field("rust.odd", &Self::odd),
        field("rust.words", &Self::words),
        field("rust.echo", &Self::echo),
        field("rust.took", &Self::took),
        field("rust.began", &Self::began),
        field("rust.addresses", &Self::addresses),
        field("rust.network", &Self::network),
        field("rust.fails", &Self::fails),
    ];
}

impl AsyncEventPlugin for Rustbed {
    const ASYNC_EVENTS: &'static [&'static str] = &["tick"];
    const EVENT_SOURCES: &'static [&'static str] = &[];

    fn start_async(&mut self, handler: AsyncHandler) -> Result<(), Error> {
        self.ticker = Some(std::thread::spawn(move || {
            for n in 0..3u8 {
                handler.emit(Self::async_event(c"tick", &[b'0' + n]))?;
            }
            match handler.emit(Self::async_event(c"tock", b"")) {
                Ok(()) => log::error!("an event with a foreign name was taken"),
                Err(e) => log::info!("refused: {e:#}"),
            }
            Ok(())
        }));
        Ok(())
    }

    fn stop_async(&mut self) -> Result<(), Error> {
        match self.ticker.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => bail!("the ticker has panicked"),
        }
    }
}

plugin!(Rustbed);
source_plugin!(Rustbed);
extract_plugin!(Rustbed);
async_event_plugin!(Rustbed);
