//! A place to be killed at: `DEPLOYD_HOLD=after:12` makes the agent stand still once the 12th record of a
//! deployment is durable, `before:12` when it is about to be written. Tests kill it from outside there;
//! without the variable nothing of this runs. See docs/testing.md.

/// Where to stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Before this record is written.
    Before(u64),
    /// After this record is durable.
    After(u64),
}

impl Hold {
    /// From the text of the variable.
    pub fn parse(text: &str) -> Option<Self> {
        let (when, seq) = text.split_once(':')?;
        let seq = seq.parse().ok()?;
        match when {
            "before" => Some(Self::Before(seq)),
            "after" => Some(Self::After(seq)),
            _ => None,
        }
    }

    /// Never returns when this is the place.
    pub async fn here(self, place: Self) {
        if self == place {
            tracing::warn!(?place, "held: waiting to be killed");
            std::future::pending::<()>().await;
        }
    }
}
