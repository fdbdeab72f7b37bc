"""How many texts are told right: own sentences in many languages, in the encodings that they are found in.

    python benchmarks/encodings.py [--characters 60 120 1000] [--json-file FILE]

Each text is read as bytes alone, whole, cut short, and with one byte put wrong in its middle (then it counts as right
where all the rest is). Nothing is measured on files of others, so that everyone gets the same table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from hrm.files.encoding import read_text
from hrm.files.reading import UserError

# fmt: off
SENTENCES = {
    "Russian": (
        "Утром дети вышли во двор и увидели, что за ночь выпал первый снег. Он лежал на крышах, на заборах и на "
        "старой яблоне у калитки. Бабушка поставила на стол чайник и сказала, что торопиться некуда: до школы ещё "
        "целый час. Младший брат спросил, можно ли взять с собой санки, но никто ему не ответил."
    ),
    "Ukrainian": (
        "Уранці діти вийшли надвір і побачили, що за ніч випав перший сніг. Він лежав на дахах, на парканах і на "
        "старій яблуні біля хвіртки. Бабуся поставила на стіл чайник і сказала, що поспішати нікуди: до школи ще "
        "ціла година. Її онук запитав, чи можна взяти з собою санчата, але ніхто йому не відповів."
    ),
    "Chinese, simplified": (
        "早晨，孩子们走到院子里，发现夜里下了第一场雪。雪落在屋顶上、篱笆上，也落在门边那棵老苹果树上。奶奶把茶壶放"
        "在桌上，说不用着急，离上学还有整整一个小时。弟弟问能不能带上雪橇，可是谁也没有回答他。"
    ),
    "Chinese, traditional": (
        "早晨，孩子們走到院子裡，發現夜裡下了第一場雪。雪落在屋頂上、籬笆上，也落在門邊那棵老蘋果樹上。奶奶把茶壺放"
        "在桌上，說不用著急，離上學還有整整一個小時。弟弟問能不能帶上雪橇，可是誰也沒有回答他。"
    ),
    "Japanese": (
        "朝、子どもたちは庭に出て、夜のうちに初雪が降ったことに気づいた。雪は屋根の上にも、垣根の上にも、門のそばの"
        "古いりんごの木の上にも積もっていた。おばあさんはやかんをテーブルに置いて、急ぐことはない、学校までまだ一時"
        "間もあると言った。弟はそりを持って行ってもいいかと聞いたが、だれも答えなかった。"
    ),
    "Korean": (
        "아침에 아이들은 마당으로 나가 밤사이에 첫눈이 내린 것을 보았다. 눈은 지붕 위에도, "
        "울타리 위에도, 문 옆의 늙은 사과나무 위에도 쌓여 있었다. 할머니는 주전자를 식탁에 올려놓고 서두를 것"
        " 없다고, 학교까지 아직 한 시간이나 남았다고 말했다. "
        "동생은 썰매를 가져가도 되느냐고 물었지만 아무도 대답하지 않았다."
    ),
    "Czech": (
        "Ráno děti vyšly na dvůr a uviděly, že v noci napadl první sníh. Ležel na střechách, na plotech i na staré "
        "jabloni u branky. Babička postavila na stůl konvici a řekla, že není kam spěchat: do školy zbývá ještě "
        "celá hodina. Mladší bratr se zeptal, jestli si může vzít sáňky, ale nikdo mu neodpověděl. Žluťoučký kůň "
        "stál tiše u vrat."
    ),
    "Polish": (
        "Rano dzieci wyszły na podwórze i zobaczyły, że w nocy spadł pierwszy śnieg. Leżał na dachach, na płotach i"
        " na starej jabłoni przy furtce. Babcia postawiła na stole czajnik i powiedziała, że nie ma się dokąd "
        "śpieszyć: do szkoły została jeszcze cała godzina. Młodszy brat zapytał, czy może wziąć sanki, ale nikt mu "
        "nie odpowiedział."
    ),
    "Hungarian": (
        "Reggel a gyerekek kimentek az udvarra, és látták, hogy éjszaka leesett az első hó. Ott feküdt a "
        "háztetőkön, a kerítéseken és az öreg almafán a kapu mellett. Nagymama teáskannát tett az asztalra, és azt "
        "mondta, nincs hová sietni: az iskoláig van még egy egész óra. Az öccse megkérdezte, elviheti-e a szánkót, "
        "de senki sem felelt neki. Őszintén szólva fűthettek volna."
    ),
    "Greek": (
        "Το πρωί τα παιδιά βγήκαν στην αυλή και είδαν ότι τη νύχτα είχε πέσει το πρώτο χιόνι. Ήταν πάνω στις "
        "στέγες, στους φράχτες και στη γέρικη μηλιά δίπλα στην πόρτα. Η γιαγιά έβαλε την τσαγιέρα στο τραπέζι και "
        "είπε πως δεν υπάρχει λόγος να βιαστούν: για το σχολείο είχαν ακόμη μια ολόκληρη ώρα. Ο μικρός αδελφός "
        "ρώτησε αν μπορεί να πάρει το έλκηθρο, αλλά κανείς δεν του απάντησε."
    ),
    "Hebrew": (
        "בבוקר יצאו הילדים לחצר וראו שבלילה ירד השלג הראשון. הוא כיסה את הגגות, את הגדרות ואת עץ התפוח הזקן ליד "
        "השער. סבתא הניחה את הקומקום על השולחן ואמרה שאין לאן למהר: עד בית הספר נשארה עוד שעה שלמה. האח הקטן שאל אם"
        " אפשר לקחת את המזחלת, אבל איש לא ענה לו."
    ),
    "Arabic": (
        "في الصباح خرج الأطفال إلى الفناء ورأوا أن الثلج الأول قد سقط في الليل. كان يغطي السطوح والأسوار وشجرة "
        "التفاح العجوز قرب الباب. وضعت الجدة إبريق الشاي على المائدة وقالت إنه لا داعي للعجلة، فما زالت هناك ساعة "
        "كاملة قبل المدرسة. سأل الأخ الصغير هل يمكنه أن يأخذ الزلاجة معه، لكن أحدا لم يجبه."
    ),
    "Turkish": (
        "Sabahleyin çocuklar avluya çıktılar ve gece ilk karın yağdığını gördüler. Kar çatıların, çitlerin ve "
        "kapının yanındaki yaşlı elma ağacının üstünde duruyordu. Büyükanne çaydanlığı masaya koydu ve acele etmeye"
        " gerek olmadığını söyledi: okula daha koca bir saat vardı. Küçük kardeşi kızağı yanına alıp alamayacağını "
        "sordu, ama kimse ona cevap vermedi."
    ),
    "Lithuanian": (
        "Rytą vaikai išėjo į kiemą ir pamatė, kad naktį iškrito pirmasis sniegas. Jis gulėjo ant stogų, ant tvorų "
        "ir ant senos obels prie vartelių. Močiutė pastatė ant stalo arbatinį ir pasakė, kad nėra kur skubėti: iki "
        "mokyklos dar visa valanda. Jaunesnysis brolis paklausė, ar galima pasiimti rogutes, bet niekas jam "
        "neatsakė. Žąsys ūkė už tvenkinio."
    ),
    "French": (
        "Le matin, les enfants sortirent dans la cour et virent que la première neige était tombée pendant la nuit."
        " Elle couvrait les toits, les clôtures et le vieux pommier près du portail. La grand-mère posa la théière "
        "sur la table et dit qu'il n'était pas nécessaire de se presser : il restait une heure entière avant "
        "l'école. Le plus jeune frère demanda s'il pouvait emporter la luge, mais personne ne lui répondit. Où "
        "était passé le garçon ?"
    ),
    "German": (
        "Am Morgen gingen die Kinder in den Hof und sahen, dass über Nacht der erste Schnee gefallen war. Er lag "
        "auf den Dächern, auf den Zäunen und auf dem alten Apfelbaum neben dem Tor. Die Großmutter stellte den "
        "Teekessel auf den Tisch und sagte, man brauche sich nicht zu beeilen: bis zur Schule sei es noch eine "
        "ganze Stunde. Der jüngere Bruder fragte, ob er den Schlitten mitnehmen dürfe, aber niemand hörte ihm zu."
    ),
    "Spanish": (
        "Por la mañana los niños salieron al patio y vieron que durante la noche había caído la primera nieve. "
        "Cubría los tejados, las vallas y el viejo manzano que había junto a la puerta. La abuela puso la tetera "
        "sobre la mesa y dijo que no hacía falta darse prisa: todavía quedaba una hora entera para la escuela. "
        "¿Puedo llevarme el trineo?, preguntó el hermano pequeño, pero nadie le contestó."
    ),
}
# fmt: on
UNICODE = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
ENCODINGS = {
    "Russian": ("cp1251", "koi8_r", "cp866", "iso8859_5"),
    "Ukrainian": ("cp1251", "koi8_u"),
    "Chinese, simplified": ("gb18030",),
    "Chinese, traditional": ("big5", "gb18030"),
    "Japanese": ("shift_jis", "euc_jp", "iso2022_jp"),
    "Korean": ("euc_kr",),
    "Czech": ("cp1250", "iso8859_2"),
    "Polish": ("cp1250", "iso8859_2"),
    "Hungarian": ("cp1250", "iso8859_2"),
    "Greek": ("cp1253", "iso8859_7"),
    "Hebrew": ("cp1255", "iso8859_8"),
    "Arabic": ("cp1256", "iso8859_6"),
    "Turkish": ("cp1254", "iso8859_9"),
    "Lithuanian": ("cp1257", "iso8859_13"),
    "French": ("cp1252", "latin_1"),
    "German": ("cp1252", "latin_1"),
    "Spanish": ("cp1252", "latin_1"),
}


def texts(characters: int, lines: int = 1) -> Iterator[tuple[str, str, bytes]]:
    """Language, encoding and bytes of each text, of this many characters of its sentences, on this many lines."""
    for language, sentences in SENTENCES.items():
        for encoding in (*UNICODE, *ENCODINGS[language]):
            text = "\n".join([sentences[:characters]] * lines)
            yield language, encoding, text.encode(encoding, "ignore")


def is_right(encoding: str, data: bytes, byte: int | None = None) -> bool:
    """Whether a text is read as it was written, also where a byte in its middle is replaced by `byte`."""
    place = len(data) // 2
    broken = data if byte is None else data[:place] + bytes([byte]) + data[place + 1 :]
    try:
        text, found = read_text(broken)
    except UserError:
        return False
    # Windows' code pages are ISO's with more characters: what counts is the text.
    return text == broken.decode(encoding, "replace").removeprefix("\ufeff") or (
        byte is not None and data.decode(found.name, "replace") == data.decode(encoding)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--characters", type=int, nargs="+", default=[30, 60, 120, 1000])
    parser.add_argument("--json-file", type=Path)
    args = parser.parse_args()
    rows = []
    for characters in args.characters:
        found = [(language, name, is_right(name, data)) for language, name, data in texts(characters)]
        rows.append({"what": f"{characters} characters", "n": len(found), "right": sum(right for *_, right in found)})
        rows[-1]["wrong"] = [f"{language} in {name}" for language, name, right in found if not right]
    for byte in (0x81, 0x98, 0xE9, 0xFF):
        many = [(language, name, data) for language, name, data in texts(1000, 8) if name not in UNICODE[2:]]
        found = [(language, name, is_right(name, data, byte)) for language, name, data in many]
        rows.append({"what": f"8 lines, one byte {byte:#x}", "n": len(found), "right": sum(r for *_, r in found)})
        rows[-1]["wrong"] = [f"{language} in {name}" for language, name, right in found if not right]
    for row in rows:
        print(f"{row['what']:<26} {row['right']:>4} of {row['n']:>4}   {', '.join(row['wrong'])}")
    if args.json_file:
        args.json_file.write_text(json.dumps(rows, indent=2), "utf-8")


if __name__ == "__main__":
    main()
