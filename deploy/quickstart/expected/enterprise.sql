-- What the registration department's table says, in the standard's words, by plain SQL.
-- Left out are rows that no clerk may send on: a credit code whose check character is wrong (GB 32100-2015: weights are the
-- powers of three modulo 31), and a missing legal representative.
CREATE TEMP VIEW enterprise AS
WITH cleaned AS (
    SELECT *, upper(trim(tyshxydm)) AS uscc, '0123456789ABCDEFGHJKLMNPQRTUWXY' AS alphabet FROM department.qy_jbxx
), summed AS (
    SELECT *, 1 * (instr(alphabet, substr(uscc, 1, 1)) - 1) + 3 * (instr(alphabet, substr(uscc, 2, 1)) - 1) + 9 * (instr(alphabet, substr(uscc, 3, 1)) - 1) + 27 * (instr(alphabet, substr(uscc, 4, 1)) - 1) + 19 * (instr(alphabet, substr(uscc, 5, 1)) - 1) + 26 * (instr(alphabet, substr(uscc, 6, 1)) - 1) + 16 * (instr(alphabet, substr(uscc, 7, 1)) - 1) + 17 * (instr(alphabet, substr(uscc, 8, 1)) - 1) + 20 * (instr(alphabet, substr(uscc, 9, 1)) - 1) + 29 * (instr(alphabet, substr(uscc, 10, 1)) - 1) + 25 * (instr(alphabet, substr(uscc, 11, 1)) - 1) + 13 * (instr(alphabet, substr(uscc, 12, 1)) - 1) + 8 * (instr(alphabet, substr(uscc, 13, 1)) - 1) + 24 * (instr(alphabet, substr(uscc, 14, 1)) - 1) + 10 * (instr(alphabet, substr(uscc, 15, 1)) - 1) + 30 * (instr(alphabet, substr(uscc, 16, 1)) - 1) + 28 * (instr(alphabet, substr(uscc, 17, 1)) - 1) AS total FROM cleaned
)
SELECT
    uscc,
    qymc AS name,
    substr(uscc, 1, 2) AS entity_type,
    hydm AS industry,
    fddbr AS legal_rep_name,
    frzjhm AS legal_rep_doc_no,
    printf('%.6f', zczb) AS reg_capital,
    bz AS currency,
    substr(clrq, 1, 4) || '-' || substr(clrq, 5, 2) || '-' || substr(clrq, 7, 2) AS established,
    CASE yyqxz WHEN '长期' THEN '9999-12-31' ELSE yyqxz END AS term_to,
    CASE djzt WHEN '存续' THEN '1' WHEN '在营' THEN '1' WHEN '经营异常' THEN '2' WHEN '吊销' THEN '3' WHEN '注销' THEN '4' END AS status,
    zs AS reg_address,
    xzqh AS reg_address_division,
    jyfw AS scope,
    lxdh AS phone
FROM summed
WHERE length(uscc) = 18
    AND substr(alphabet, 1 + (31 - total % 31) % 31, 1) = substr(uscc, 18, 1)
    AND coalesce(trim(fddbr), '') <> '';
