//! Violations: the protocol rules that a peer can break, each with its close code.

use serde::{Deserialize, Serialize};

use super::code::CloseCode;

/// A protocol rule that a peer broke; one variant per rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Violation {
    /// A reserved bit is set that no negotiated extension defines (section 5.2).
    ReservedBit,
    /// An opcode from 3 to 7 or 11 to 15 (section 5.2).
    ReservedOpcode,
    /// A length that fits a shorter form (section 5.2).
    LengthNotMinimal,
    /// A 64-bit length whose first bit is set (section 5.2).
    LengthOver63Bits,
    /// An unmasked frame from a client (section 5.1).
    NotMasked,
    /// A masked frame from a server (section 5.1).
    Masked,
    /// A control frame without FIN (section 5.5).
    FragmentedControl,
    /// A control frame of more than 125 bytes (section 5.5).
    LongControl,
    /// A continuation frame outside a fragmented message (section 5.4).
    UnexpectedContinuation,
    /// The first frame of a message inside a fragmented message (section 5.4).
    InterruptedMessage,
    /// A Close payload of one byte (section 5.5.1).
    ShortClose,
    /// A close code that must not be sent (section 7.4).
    CloseCode,
    /// A close reason that is not UTF-8 (section 5.5.1).
    CloseReason,
    /// A text message that is not UTF-8 (section 8.1).
    TextNotUtf8,
    /// A frame larger than the route's `frame_max_size`, or its `upstream_message_max_size` if from an upstream
    /// (section 10.4).
    FrameTooBig,
    /// A message larger than the route's `message_max_size`, or its `upstream_message_max_size` if from an upstream
    /// (section 10.4).
    MessageTooBig,
}

impl Violation {
    /// Returns the code of the Close frame that answers it (section 7.4.1).
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::ReservedBit
            | Self::ReservedOpcode
            | Self::LengthNotMinimal
            | Self::LengthOver63Bits
            | Self::NotMasked
            | Self::Masked
            | Self::FragmentedControl
            | Self::LongControl
            | Self::UnexpectedContinuation
            | Self::InterruptedMessage
            | Self::ShortClose
            | Self::CloseCode => CloseCode::PROTOCOL_ERROR,
            Self::CloseReason | Self::TextNotUtf8 => CloseCode::INVALID_PAYLOAD,
            Self::FrameTooBig | Self::MessageTooBig => CloseCode::MESSAGE_TOO_BIG,
        }
    }

    /// Returns its name in logs, which is also the reason in the Close frame.
    pub fn label(self) -> &'static str {
        match self {
            Self::ReservedBit => "reserved bit",
            Self::ReservedOpcode => "reserved opcode",
            Self::LengthNotMinimal => "length not minimal",
            Self::LengthOver63Bits => "length over 63 bits",
            Self::NotMasked => "not masked",
            Self::Masked => "masked",
            Self::FragmentedControl => "fragmented control frame",
            Self::LongControl => "long control frame",
            Self::UnexpectedContinuation => "unexpected continuation",
            Self::InterruptedMessage => "interrupted message",
            Self::ShortClose => "short close",
            Self::CloseCode => "close code",
            Self::CloseReason => "close reason not UTF-8",
            Self::TextNotUtf8 => "text not UTF-8",
            Self::FrameTooBig => "frame too big",
            Self::MessageTooBig => "message too big",
        }
    }
}
