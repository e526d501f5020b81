//! A directory that posy's kvstore wrote opens as it is.
