//! What is told of a pull: a line for each layer that came, and the sum; never more than a screen of it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::models::CreateImageInfo;

/// Layers that get a line of their own.
const LINES: usize = 20;
/// Layers that are kept apart at all; an image has at most 127.
const LAYERS: usize = 1_000;

/// A pull that is under way.
pub(crate) struct Progress {
    began: Instant,
    layers: Vec<Layer>,
    index: HashMap<String, usize>,
    /// What the engine says of the image as a whole.
    said: Vec<String>,
}

struct Layer {
    id: String,
    bytes: u64,
    state: State,
}

enum State {
    Coming,
    Came(Duration),
    WasThere,
}

impl Progress {
    pub(crate) fn begin() -> Self {
        Self { began: Instant::now(), layers: Vec::new(), index: HashMap::new(), said: Vec::new() }
    }

    /// Takes up one message of the engine's.
    pub(crate) fn step(&mut self, step: CreateImageInfo) {
        let Some(status) = step.status else { return };
        // The image's own messages have no id, but for the first, which has its tag for one.
        let Some(id) = step.id.filter(|_| !status.starts_with("Pulling from")) else {
            if self.said.len() < LINES {
                self.said.push(status);
            }
            return;
        };
        let elapsed = self.began.elapsed();
        let Some(layer) = self.layer(id) else { return };
        let bytes = step.progress_detail.and_then(|detail| detail.total.max(detail.current));
        layer.bytes = layer.bytes.max(bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0));
        match status.as_str() {
            "Already exists" => layer.state = State::WasThere,
            "Pull complete" => layer.state = State::Came(elapsed),
            _ => {}
        }
    }

    fn layer(&mut self, id: String) -> Option<&mut Layer> {
        let index = match self.index.get(&id) {
            Some(index) => *index,
            None if self.layers.len() >= LAYERS => return None,
            None => {
                self.layers.push(Layer { id: id.clone(), bytes: 0, state: State::Coming });
                self.index.insert(id, self.layers.len() - 1);
                self.layers.len() - 1
            }
        };
        self.layers.get_mut(index)
    }

    /// Whether the engine has named any layer of the image.
    pub(crate) fn has_layers(&self) -> bool {
        !self.layers.is_empty()
    }

    /// The pull as text, with a line break at its end.
    pub(crate) fn finish(self, image: &str, how: &str) -> String {
        let took = self.began.elapsed();
        let mut text = format!("pulling {image} {how}\n");
        for layer in self.layers.iter().take(LINES) {
            let what = match layer.state {
                State::WasThere => "was there".to_owned(),
                State::Coming => format!("{}, not finished", size(layer.bytes)),
                State::Came(after) => format!("{}, there after {}", size(layer.bytes), seconds(after)),
            };
            text.push_str(&format!("layer {}: {what}\n", layer.id));
        }
        if let Some(more @ 1..) = self.layers.len().checked_sub(LINES) {
            text.push_str(&format!("and {more} more layers\n"));
        }
        let there = self.layers.iter().filter(|layer| matches!(layer.state, State::WasThere)).count();
        let bytes = self.layers.iter().map(|layer| layer.bytes).sum();
        // The engine does not even name the layers of an image that it has under another name.
        match self.layers.len() - there {
            0 => text.push_str(&format!("no new layer, in {}\n", seconds(took))),
            came => text.push_str(&format!("new layers: {came} with {} in {}\n", size(bytes), seconds(took))),
        }
        for line in self.said {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// In the units that Docker itself shows.
fn size(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes >= 1e9 => format!("{:.1} GB", bytes / 1e9),
        bytes if bytes >= 1e6 => format!("{:.1} MB", bytes / 1e6),
        bytes if bytes >= 1e3 => format!("{:.1} kB", bytes / 1e3),
        bytes => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ProgressDetail;

    fn step(id: &str, status: &str, total: i64) -> CreateImageInfo {
        CreateImageInfo {
            id: Some(id.into()).filter(|id: &String| !id.is_empty()),
            status: Some(status.into()),
            progress_detail: Some(ProgressDetail { current: Some(1), total: Some(total) }),
            ..Default::default()
        }
    }

    #[test]
    fn layers_and_their_sum_are_told() {
        let mut progress = Progress::begin();
        for step in [
            step("1.36", "Pulling from library/busybox", 0),
            step("aa", "Already exists", 0),
            step("bb", "Pulling fs layer", 0),
            step("bb", "Downloading", 2_500_000),
            step("bb", "Extracting", 2_500_000),
            step("bb", "Pull complete", 0),
            step("", "Status: Downloaded newer image for busybox:1.36", 0),
        ] {
            progress.step(step);
        }
        let text = progress.finish("busybox:1.36", "without credentials");
        assert_eq!(
            text,
            "pulling busybox:1.36 without credentials\nlayer aa: was there\nlayer bb: 2.5 MB, there after 0.0 s\n\
             new layers: 1 with 2.5 MB in 0.0 s\nPulling from library/busybox\n\
             Status: Downloaded newer image for busybox:1.36\n"
        );
    }

    #[test]
    fn a_thousand_layers_are_a_screen() {
        let mut progress = Progress::begin();
        for n in 0..5_000 {
            progress.step(step(&format!("layer{n}"), "Pull complete", 10));
            progress.step(step("", "something", 0));
        }
        let text = progress.finish("i", "");
        assert!(text.lines().count() < 50, "{text}");
        assert!(text.contains("and 980 more layers"), "{text}");
    }
}
