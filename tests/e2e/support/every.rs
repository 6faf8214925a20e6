//! A macro that lists every variant of an enum.

/// Lists all variants of an enum; it does not compile if one is missing. A variant with fields is followed by an
/// expression that yields its values.
macro_rules! every {
    ($enum:ident { $($variant:ident $(($values:expr))?),* $(,)? }) => {{
        let _exhaustive = |value: $enum| match value { $($enum::$variant { .. } => (),)* };
        [$($crate::support::every::every!(@ $enum $variant $($values)?)),*].concat()
    }};
    (@ $enum:ident $variant:ident) => { vec![$enum::$variant] };
    (@ $enum:ident $variant:ident $values:expr) => { Vec::<$enum>::from_iter($values) };
}

pub(crate) use every;
