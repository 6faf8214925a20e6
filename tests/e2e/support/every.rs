//! All variants of an enum.

/// A list of all variants of an enum, which does not compile if one is left out. A variant that holds something stands
/// for each of the values in the list behind it.
macro_rules! every {
    ($enum:ident { $($variant:ident $(($values:expr))?),* $(,)? }) => {{
        let _exhaustive = |value: $enum| match value { $($enum::$variant { .. } => (),)* };
        let mut all: Vec<$enum> = Vec::new();
        $($crate::support::every::every!(@ all $enum $variant $($values)?);)*
        all
    }};
    (@ $all:ident $enum:ident $variant:ident) => { $all.push($enum::$variant) };
    (@ $all:ident $enum:ident $variant:ident $values:expr) => { $all.extend($values) };
}

pub(crate) use every;
