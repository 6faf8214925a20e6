//! The rules of the protocol that a peer can break, each with its close code.

use super::code::CloseCode;

/// A rule that a peer broke; one variant a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A reserved bit is set that no negotiated extension defines (section 5.2).
    ReservedBit,
    /// An opcode from 3 to 7 or 11 to 15 (section 5.2).
    ReservedOpcode,
    /// A length that would have fitted a shorter form (section 5.2).
    LengthNotMinimal,
    /// A 64-bit length whose first bit is set (section 5.2).
    LengthOver63Bits,
    /// A frame from a client without mask (section 5.1).
    NotMasked,
    /// A frame from a server with mask (section 5.1).
    Masked,
    /// A control frame without FIN (section 5.5).
    FragmentedControl,
    /// A control frame of more than 125 bytes (section 5.5).
    LongControl,
    /// A continuation where no message is under way (section 5.4).
    UnexpectedContinuation,
    /// A new message inside a fragmented one (section 5.4).
    InterruptedMessage,
    /// A Close payload of one byte (section 5.5.1).
    ShortClose,
    /// A close code that must not be on the wire (section 7.4).
    CloseCode,
    /// A close reason that is not UTF-8 (section 5.5.1).
    CloseReason,
    /// A text message that is not UTF-8 (section 8.1).
    TextNotUtf8,
    /// A frame beyond the route's `frame_max_size` (section 10.4).
    FrameTooBig,
    /// A message beyond the route's `message_max_size` (section 10.4).
    MessageTooBig,
}

impl Violation {
    /// The code of the Close frame that answers it (section 7.4.1).
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

    /// Its name in logs and as the reason of the Close frame.
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
