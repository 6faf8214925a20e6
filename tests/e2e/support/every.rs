//! All variants of an enum.

/// A list of all variants of an enum, which does not compile if one is left out. A variant that holds something stands
/// for each of the values in the list behind it.
macro_rules! every {
    ($enum:ident { $($variant:ident $(($values:expr))?),* $(,)? }) => {{
        let _exhaustive = |value: $enum| match value { $($enum::$variant { .. } => (),)* };
        [$($crate::support::every::every!(@ $enum $variant $($values)?)),*].concat()
    }};
    (@ $enum:ident $variant:ident) => { vec![$enum::$variant] };
    (@ $enum:ident $variant:ident $values:expr) => { Vec::<$enum>::from_iter($values) };
}

pub(crate) use every;
